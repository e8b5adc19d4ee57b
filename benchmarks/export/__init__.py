"""What an exported network costs and loses in float32 and in int8, side by side."""
