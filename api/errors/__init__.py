"""Errors of the REST interface as problem documents."""
