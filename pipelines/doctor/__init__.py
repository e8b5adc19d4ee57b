"""Examine an installation and suggest remedies."""
