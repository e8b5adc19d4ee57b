"""The command line, one module per topic; the only package of the core that imports the other folders."""

from forecast.cli.app import main

__all__ = ["main"]
