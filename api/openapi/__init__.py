"""Examples and responses for the OpenAPI document."""
