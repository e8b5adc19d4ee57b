"""Checks that the options of several models share."""

from typing import Any

from models.errors import OptionOutOfRangeError


def at_least(minimum: int, config: Any, *options: str) -> None:
    """Refuse options of a config below a minimum.

    Raises:
        OptionOutOfRangeError: naming the first.

    """
    for option in options:
        if getattr(config, option) < minimum:
            raise OptionOutOfRangeError(option, getattr(config, option), f"{minimum} or more")


def shares(config: Any, *options: str) -> None:
    """Refuse options of a config outside [0, 1), as dropout has to be.

    Raises:
        OptionOutOfRangeError: naming the first.

    """
    for option in options:
        if not 0 <= getattr(config, option) < 1:
            raise OptionOutOfRangeError(option, getattr(config, option), "at least 0 and below 1")
