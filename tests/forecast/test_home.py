from pathlib import Path

import pytest

from forecast.errors import ConfigError, NotFoundError, StorageError
from forecast.home import Home, cores, find_home
from forecast.ledger import Ledger


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "forecast.toml").touch()
    return folder


def test_the_given_home_wins_over_the_environment_and_the_current_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "forecast.toml").touch()
    monkeypatch.setenv("FORECAST_HOME", str(other))
    assert find_home(home).path == home
    assert find_home(None).path == other
    monkeypatch.delenv("FORECAST_HOME")
    monkeypatch.chdir(home)
    assert find_home(None).path == home


def test_a_home_gets_all_its_folders_when_it_is_found(home: Path) -> None:
    found = find_home(home)
    assert all(folder.is_dir() for folder in (found.lake, found.models, found.logs, found.reports, found.locks))


def test_a_folder_without_a_config_file_is_not_a_home_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no forecast\.toml in") as caught:
        find_home(tmp_path)
    assert caught.value.code == "home.not_found"
    assert "forecast init" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_home_under_a_regular_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create the folder") as caught:
        Home(tmp_path / "file" / "home").prepare()
    assert caught.value.code == "home.not_writable"


def test_a_home_in_a_read_only_file_system_cannot_be_made() -> None:
    with pytest.raises(StorageError, match="cannot create the folder"):
        Home(Path("/proc/forecast-home")).prepare()


def test_a_home_whose_name_is_taken_by_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="File exists"):
        Home(tmp_path / "file").prepare()


@pytest.mark.parametrize("name", ["plain", "with space", "a%20b", "what?", "no#1", "a[1]", "Größe", "a+b&c=d"])
def test_the_ledger_lies_inside_the_home_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name)
    home.prepare()
    Ledger.open(home.ledger_url).close()
    assert (home.path / "ledger.db").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_the_databases_may_lie_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_LEDGER_URL", "postgresql://db/ledger")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Home(home).ledger_url == "postgresql://db/ledger"
    assert Home(home).tracking_uri == "http://mlflow:5000"


def test_the_cores_of_a_training_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_CORES", "3")
    assert cores() == 3


def test_without_a_setting_the_cores_are_those_of_this_process() -> None:
    assert cores() >= 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_a_senseless_number_of_cores_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_CORES", text)
    with pytest.raises(ConfigError, match="not a positive whole number"):
        cores()
