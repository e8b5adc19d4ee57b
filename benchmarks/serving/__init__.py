"""What a forecast over HTTP costs."""
