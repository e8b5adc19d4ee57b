"""Baselines: models that are solved by a formula instead of trained."""
