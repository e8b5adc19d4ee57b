"""Request formats of other services' clients."""
