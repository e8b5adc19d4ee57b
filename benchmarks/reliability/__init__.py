"""What must survive: dates of jobs, runs, champions and rows, while processes are killed and clocks jump."""
