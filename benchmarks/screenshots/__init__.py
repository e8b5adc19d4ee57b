"""The screenshots of the documentation: a home that is made for them, and a browser that takes them."""
