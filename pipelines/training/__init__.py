"""Train, export, calibrate and score candidates."""
