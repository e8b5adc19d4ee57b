"""Model evaluation: scores on held-out windows, guards, significance tests and the promotion decision."""
