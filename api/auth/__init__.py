"""API keys, browser sessions, and the scope of each route."""
