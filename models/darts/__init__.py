"""The bridge between torch networks and darts: everything that makes a network a darts model."""
