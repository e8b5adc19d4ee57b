"""Scheduling: scheduler, worker hosts, leases, and supervision of their processes."""
