"""What the process keeps in memory: latest forecasts, champions, histories."""
