"""What a night logs to MLflow."""
