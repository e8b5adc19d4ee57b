"""Select parts of a forecast and encode them."""
