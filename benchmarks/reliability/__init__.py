"""Reliability: dates of jobs, runs, champions and rows survive while processes are killed and clocks jump."""
