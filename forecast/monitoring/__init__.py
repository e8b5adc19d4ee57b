"""How good served forecasts are: live scores, corrections, revisions, alert rules."""
