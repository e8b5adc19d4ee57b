"""A darts file may name the class that loads it and the classes that darts trusts, and no other class of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from darts.utils.serialization.base import UnpicklingError

from models import ITransformerModel, LinearModel, ModelName
from models.darts.bridge import NetworkModel, ServiceModel, trusted_classes

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def saved(fitted: Callable[[ModelName], Any], tmp_path: Path) -> str:
    path = str(tmp_path / "model.pt")
    fitted(ModelName.LINEAR).save(path, clean=True)
    return path


def test_a_class_refuses_the_file_of_another_model(saved: str) -> None:
    with pytest.raises(UnpicklingError, match="LinearModel"):
        ITransformerModel.load(saved, pl_trainer_kwargs=QUIET)


@pytest.mark.parametrize("loader", [LinearModel, NetworkModel, ServiceModel])
def test_a_class_and_its_base_classes_load_its_file(loader: Any, saved: str) -> None:
    assert type(loader.load(saved, pl_trainer_kwargs=QUIET)) is LinearModel


def test_only_the_class_itself_and_its_subclasses_are_trusted() -> None:
    assert trusted_classes(LinearModel) == [LinearModel]
    assert {LinearModel, ITransformerModel} <= set(trusted_classes(ServiceModel))
