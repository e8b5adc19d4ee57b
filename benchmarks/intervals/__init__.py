"""The effect of calibration on forecast intervals."""
