"""The operational state in one SQL database."""
