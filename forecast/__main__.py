"""``python -m forecast`` is the command line."""

from forecast.cli import main

main()
