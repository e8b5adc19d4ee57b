"""Score served forecasts, evaluate alert rules, call webhooks."""
