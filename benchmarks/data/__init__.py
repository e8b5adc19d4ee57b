"""Costs of ingesting and reading data, beside the plainest way to do the same with the same libraries."""
