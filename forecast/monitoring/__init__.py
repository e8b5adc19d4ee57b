"""Monitoring of served forecasts: live scores, corrections, revisions and alerts."""
