"""Hostile model folders, whose every file an attacker controls, and the outcome of loading them."""
