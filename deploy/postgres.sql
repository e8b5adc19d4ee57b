-- MLflow keeps a database of its own beside the ledger.
CREATE DATABASE mlflow;
