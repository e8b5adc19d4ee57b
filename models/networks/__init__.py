"""Trained networks, each with its config and its darts model."""
