"""Former names of the model classes, so that files saved by the release before this one stay loadable.

A darts file names the class of its model as `module.Class`. Until version 0.1.0 all modules of the models lay flat in
`models/`. This module goes, together with its two uses, once a release has been published that saves under the names of
today: loading a file and saving it again renames it.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType

FORMER_MODULES = MappingProxyType(
    {
        "models.dlinear": "models.networks.dlinear",
        "models.informer": "models.networks.informer",
        "models.itransformer": "models.networks.itransformer",
        "models.linear": "models.baselines.linear",
        "models.n_hits": "models.networks.n_hits",
        "models.nlinear": "models.networks.nlinear",
        "models.patch_tsmixer": "models.networks.patch_tsmixer",
        "models.s_mamba": "models.networks.s_mamba",
        "models.seasonal_naive": "models.baselines.seasonal_naive",
        "models.tide": "models.networks.tide",
    }
)
"""Former module -> the module of today, for every model of the catalogue that has moved."""


def former_names(classes: Iterable[type]) -> list[tuple[type, str]]:
    """List the classes that have moved, each with its former dotted name, as darts' `safe_globals` takes them."""
    former = {present: name for name, present in FORMER_MODULES.items()}
    return [(one, f"{former[one.__module__]}.{one.__qualname__}") for one in classes if one.__module__ in former]


class FormerModules(MetaPathFinder, Loader):
    """Import a former module as the module of today: both names give one object, so there is one class.

    Permitting a name is not enough: darts' unpickler imports the module that the file names, and so does
    `darts.utils.mlflow.load_model`.

    >>> import_module("models.nlinear") is import_module("models.networks.nlinear")
    True
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Claim the names of the table and no others."""
        del path, target
        return ModuleSpec(fullname, self) if fullname in FORMER_MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the new, empty one, as the import system allows."""
        sys.modules[module.__name__] = import_module(FORMER_MODULES[module.__name__])
