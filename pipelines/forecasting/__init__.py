"""Issue, extend, correct and recompute forecasts."""
