"""Checks of series before darts cuts windows from them: otherwise torch fails on shapes or trains to a NaN loss."""

from typing import Any

import numpy as np
from darts.utils.ts_utils import series2seq

from models.errors import ChannelCountError, MissingValuesError


def check_values(series: Any, feature: str, last: int | None = None) -> None:
    """Refuse missing values in one or several darts series (None passes), or in their `last` steps.

    Raises:
        MissingValuesError: names the first component with NaN, the number of values and the first time.

    """
    for index, one in enumerate(series2seq(series) or ()):
        values = one.all_values(copy=False)[-last if last else None :]  # [steps, components, samples]
        missing = np.isnan(values).any(axis=2)  # [steps, components]
        if missing.any():
            component = int(missing.any(axis=0).argmax())
            step = int(missing[:, component].argmax()) - len(values)
            raise MissingValuesError(
                feature, index, str(one.components[component]), int(missing.sum()), str(one.time_index[step])
            )


def check_channels(series: Any, fitted: int, model: str) -> None:
    """Refuse series with another number of channels than the training series.

    Raises:
        ChannelCountError: names both numbers.

    """
    for index, one in enumerate(series2seq(series) or ()):
        if one.n_components != fitted:
            raise ChannelCountError(model, index, one.n_components, fitted)
