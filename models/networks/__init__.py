"""Trained networks: one file per model, with its config, its network and its darts model."""
