"""Costs of the service: requests per second, latency, start-up and memory, each beside a reference."""
