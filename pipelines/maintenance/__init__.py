"""Maintain tables, back up and restore an installation."""
