"""One module per revision of the ledger's tables, oldest first; alembic loads them by file."""
