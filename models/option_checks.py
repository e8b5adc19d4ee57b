"""Range checks of options, shared by the configs of all models."""

from typing import Any

from models.errors import OptionOutOfRangeError


def at_least(minimum: int, config: Any, *options: str) -> None:
    """Require options of a config to be at least `minimum`.

    Raises:
        OptionOutOfRangeError: names the first invalid option.

    """
    for option in options:
        if getattr(config, option) < minimum:
            raise OptionOutOfRangeError(option, getattr(config, option), f"{minimum} or more")


def shares(config: Any, *options: str) -> None:
    """Require options of a config to lie in [0, 1), like a dropout rate.

    Raises:
        OptionOutOfRangeError: names the first invalid option.

    """
    for option in options:
        if not 0 <= getattr(config, option) < 1:
            raise OptionOutOfRangeError(option, getattr(config, option), "at least 0 and below 1")
