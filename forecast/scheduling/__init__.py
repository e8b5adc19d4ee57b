"""Scheduler, worker hosts, leases and the processes they watch."""
