"""The bridge between torch networks and darts."""
