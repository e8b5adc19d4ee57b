"""ASGI layers around the routes, from deadlines to admission."""
