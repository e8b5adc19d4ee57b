"""``python -m forecast`` is the command line."""

from forecast.cli.app import main

main()
