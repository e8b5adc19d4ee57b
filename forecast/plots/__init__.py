"""Plotly charts; pure functions from arrays to figures."""
