"""What the service costs: requests per second, waiting times, start-up and memory, each beside a yardstick."""
