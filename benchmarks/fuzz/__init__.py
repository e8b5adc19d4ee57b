"""Requests of every kind to every route, made of the OpenAPI document: the long form of tests/api/test_fuzz.py."""
