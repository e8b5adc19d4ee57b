"""The config file ``forecast.toml`` as strict models."""
