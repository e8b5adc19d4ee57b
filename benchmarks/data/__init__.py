"""What bringing data in and reading it costs, beside the plainest way to do the same with the same libraries."""
