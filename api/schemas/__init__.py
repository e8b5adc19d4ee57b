"""Request and response models, as OpenAPI shows them."""
