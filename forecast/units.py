"""Conversion from a source's unit of measurement to that of a channel."""

from __future__ import annotations

from functools import lru_cache
from tokenize import TokenError
from typing import TYPE_CHECKING

from forecast.errors import ConfigError

if TYPE_CHECKING:
    from pint import UnitRegistry


@lru_cache(maxsize=256)
def conversion(source: str, unit: str) -> tuple[float, float]:
    """Return (factor, offset): value in ``unit`` = value in ``source`` * factor + offset.

    Raises ``unit.no_conversion`` if a unit is unknown or the two measure different quantities.

    >>> conversion("kW", "MW")
    (0.001, 0.0)
    >>> [round(number, 4) for number in conversion("degF", "degC")]
    [0.5556, -17.7778]
    """
    import pint  # building a registry takes half a second, so only configs with two units do

    registry = _registry()
    try:
        offset = registry.Quantity(0.0, source).to(unit).magnitude
        factor = registry.Quantity(1.0, source).to(unit).magnitude - offset
    except (pint.PintError, ValueError, AttributeError, TypeError, AssertionError, SyntaxError, TokenError) as error:
        raise ConfigError(
            "unit.no_conversion",
            f'values in "{source}" cannot be converted to "{unit}"',
            "write both as units of one quantity, such as kW and MW, or degF and degC",
        ) from error
    return float(factor), float(offset)


@lru_cache(maxsize=1)
def _registry() -> UnitRegistry[float]:
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
