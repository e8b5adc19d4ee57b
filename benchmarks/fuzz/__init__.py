"""Fuzzing of every route from the OpenAPI document: the long form of tests/api/test_fuzz.py."""
