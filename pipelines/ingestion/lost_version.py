"""Detect a table of observations that has lost versions which receipts already confirmed."""

from __future__ import annotations

from forecast.installation import Dataset
from forecast.lake.maintenance import Damage


def lost_version(dataset: Dataset) -> Damage | None:
    """Return the damage if the newest version of the observations is older than a receipt's; else ``None``.

    It happens when a table's folder is restored from an old copy, or loses its newest checksums.
    """
    table = dataset.observations
    confirmed = max((item.data_version or 0 for item in dataset.ledger.receipts.latest(dataset.name)), default=-1)
    found = table.version if table.exists else -1
    if found >= confirmed:
        return None
    message = (
        f"the observations of {dataset.name} end at version {found}, but a receipt confirms version {confirmed}; "
        "restore the table's folder from a backup of the home, with its _digests"
    )
    return Damage("lake.corrupt", message)
