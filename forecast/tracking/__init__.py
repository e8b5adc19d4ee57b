"""MLflow, which is imported here alone."""
