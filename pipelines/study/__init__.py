"""Studies of robustness and sensitivity over a model zoo."""
