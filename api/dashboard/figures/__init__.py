"""Figures of the dashboard."""
