"""What ``forecast.toml`` may say, as strict models."""
