"""Request bodies and content negotiation."""
