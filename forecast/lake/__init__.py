"""The Delta tables: observations, issued forecasts, quarantined rows."""
