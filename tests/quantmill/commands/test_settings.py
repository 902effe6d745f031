"""Misspelt settings and addresses are refused in one line that names the variable or the option."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.errors import SettingsError
from quantmill.files.paths import require_place
from quantmill.settings import Settings, load_settings


def quantmill(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMILL_")}
    done = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_misspelt_keyring_does_not_switch_the_check_off(tmp_path: Path) -> None:
    code, said = quantmill(tmp_path, "pull", "m", "--to", "there", QUANTMILL_KEYRINGS="keys")
    assert (code, said) == (
        2,
        "error: QUANTMILL_KEYRINGS: there is no such setting; the nearest is QUANTMILL_KEYRING\n",
    )


@pytest.mark.parametrize("name", ["QUANTMILL_STORES", "QUANTMILL_HOM", "quantmill_thread", "QUANTMILL_SERVICE_HOSTS"])
def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=f"^{name.upper()}: there is no such setting; the nearest is QUANTMILL_"):
        load_settings()


def test_a_port_that_kubernetes_would_not_set_so_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMILL_PORT", "8080")
    with pytest.raises(SettingsError, match=r"^QUANTMILL_PORT: there is no such setting"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUANTMILL_PULLED", "model/current"),
        ("QUANTMILL_SERVICE_HOST", "10.0.0.1"),
        ("QUANTMILL_SERVICE_PORT", "80"),
        ("QUANTMILL_SERVICE_PORT_HTTP", "80"),
        ("QUANTMILL_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("QUANTMILL_PORT", "tcp://10.0.0.1:80"),
        ("QUANTMILL_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("QUANTMILL_METRICS_PORT_80_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_what_watch_and_kubernetes_add_passes(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


PLACES = ["home", "store", "mlflow_uri", "pools", "watchlist", "python", "environments", "signing_key", "keyring"]


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize(
    "value", ["~/models", "$HOME/models", "/data/${TEAM}/models", "s3:/bucket/prefix", "s3:bucket"]
)
def test_places_are_not_guessed(monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    name = f"QUANTMILL_{field.upper()}"
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: must be a") as raised:
        load_settings()
    assert value in str(raised.value)


def test_every_place_is_in_the_table() -> None:
    """A new setting of a place is checked, or this table says why not."""
    paths = {name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)}
    assert paths | {"store", "mlflow_uri"} == set(PLACES)


@pytest.mark.parametrize(
    "place",
    ["sqlite:////var/mlflow.db", "http://server:5000", "postgresql+psycopg://u@h/db", "databricks", "/a/b:c"],
)
def test_good_places_pass(place: str) -> None:
    assert require_place(place, addresses=True) == place


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--store", "~/store"], "--store: ~/store: must be a whole path: ~ is not expanded here"),
        (
            ["list", "--store=s3:/bucket/x"],
            "--store: s3:/bucket/x: must be a path, or an address such as s3://bucket/prefix",
        ),
        (["pull", "m", "--to", "$HOME/m"], "--to: $HOME/m: must be a whole path: $HOME is not expanded here"),
        (
            ["pull", "m", "--to", "m", "--keyring=~/keys"],
            "--keyring: ~/keys: must be a whole path: ~ is not expanded here",
        ),
        (["verify", "s3://bucket/m"], "DIR: s3:/bucket/m: must be a path"),
        (["list", "--json=~/out.json"], "--json: ~/out.json: must be a whole path: ~ is not expanded here"),
        (
            ["list", "--store", "nowhere"],
            "--store: FOLDER/nowhere: there is no such folder; the first `quantmill compress` makes",
        ),
        (["list"], "QUANTMILL_STORE: FOLDER/.quantmill/store: there is no such folder"),
    ],
)
def test_options_that_are_places(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    from quantmill import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quantmill", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {words.replace('FOLDER', str(tmp_path))}")
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_a_recipe_may_come_through_a_pipe_and_not_be_a_folder(tmp_path: Path) -> None:
    code, said = quantmill(tmp_path, "compress", str(tmp_path))
    assert (code, said) == (2, f"error: {tmp_path}: is a folder; name a recipe in it\n")
    read, write = os.pipe()
    os.write(write, b"model: {source: ./nowhere}\nvariants: [{method: hqq}]\n")
    os.close(write)
    done = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", "compress", f"/dev/fd/{read}"],
        cwd=tmp_path, pass_fds=(read,), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    os.close(read)
    assert done.returncode == 2
    assert "nowhere" in done.stderr, "the recipe was read"
