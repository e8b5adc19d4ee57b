"""Experiment tracking and model registry. No other package imports MLflow."""

import logging
import os

# Before MLflow is imported by any module of this package: it reads them on import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is no reason to warn

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# Its tracebacks repeat errors that are raised as tracking.failed.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
