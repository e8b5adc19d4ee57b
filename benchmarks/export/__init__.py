"""Size, latency and errors of exported networks in float32 and int8, side by side."""
