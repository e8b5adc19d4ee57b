"""What calibration does to the bands of forecasts."""
