"""The screenshots of the documentation: a home for them, and a browser that takes them."""
