"""Fault 23: secrets in all their places, a run that works, runs that fail, and no trace of any secret."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantmill.signing import key_pairs, signing
from quantmill.signing.key_pairs import KeyPair
from quantmill.signing.signing import Keyring
from quantmill.store.places import open_store
from tests.line import Line
from tests.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow

NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_API_AUTH_STRING",
    "DATASET_URL",
    "HTTPS_MIRROR",
    "mlflow-uri",
)
CANARIES = {name: f"canary{index}x{os.urandom(8).hex()}" for index, name in enumerate(NAMES)}
RECIPE: dict[str, Any] = {
    "calibration": {"samples": 2, "sequence_length": 64},
    "evaluation": {"samples": 8, "sequence_length": 128, "seed": 1},
    "variants": [{"method": "bitsandbytes", "bits": 8}],
    "gates": {"max_perplexity_ratio": 4, "max_mean_kl": 4, "max_p99_kl": 40, "min_top1_agreement": 0},
    "publish": {"model": "tiny"},
}


class Secrets:
    """Secrets that were laid out, and a search for them."""

    def __init__(self, pair: KeyPair) -> None:
        pem = "".join(pair.private.read_text().splitlines()[1:-1])
        plain = {**CANARIES, "private key": pem, "private key's end": pem[20:]}
        self.words = {name: word.encode() for name, word in plain.items()}
        for name, word in CANARIES.items():
            login = base64.b64encode(f"user:{word}".encode()).rstrip(b"=")[:-2]
            self.words |= {f"{name} in a basic header": login, f"{name} in hex": word.encode().hex().encode()}

    def found(self, data: bytes) -> list[str]:
        """Return which of them `data` holds."""
        return [name for name, word in self.words.items() if word in data]

    def below(self, folder: Path, least: int) -> dict[str, list[str]]:
        """Return file -> secrets in it, over every file of a folder."""
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(files) >= least, "there is something to search"
        return {str(path): held for path in files if (held := self.found(path.read_bytes() + str(path).encode()))}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return key_pairs.create(tmp_path_factory.mktemp("signing"), "release")


@pytest.fixture
def mlflow(tmp_path: Path, empty_mlflow: Path) -> Iterator[MlflowServer]:
    """A real MLflow server, which asks for no password and is told one."""
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow", empty_mlflow)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def line(trained: Path, mlflow: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line in an environment full of secrets; each job leaves its own environment beside its job file."""
    made = Line(tmp_path / "line", tmp_path / "home", RECIPE | {"model": {"source": str(trained)}})
    kept = {name: word for name, word in CANARIES.items() if name.isupper()}
    kept["DATASET_URL"] = (
        f"https://bucket.example/rows.parquet?X-Amz-Credential=x&X-Amz-Signature={kept['DATASET_URL']}"
    )
    kept["HTTPS_MIRROR"] = f"https://user:{kept['HTTPS_MIRROR']}@mirror.example/simple"
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    login = f"user:{CANARIES['mlflow-uri']}@"
    monkeypatch.setenv("QUANTMILL_MLFLOW_URI", mlflow.url.replace("://", f"://{login}"))
    wrapper = made.starts.parent / "python"
    shell, *rest = wrapper.read_text().splitlines(keepends=True)
    wrapper.write_text(f"{shell}env > {made.starts}/$$.environment\n{''.join(rest)}")
    return made


def finish(line: Line, *arguments: str) -> tuple[int, bytes]:
    process = line.start(*arguments)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output.encode()


def test_fault_23_no_secret_in_anything_that_a_run_leaves(
    line: Line, pair: KeyPair, mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets, outputs = Secrets(pair), list[bytes]()
    code, output = finish(line)
    outputs.append(output)
    assert code == 0, output.decode()[-3000:]
    assert b"1 not signed: QUANTMILL_SIGNING_KEY" in output
    store = open_store(line.home / "store")
    (version,) = store.versions("tiny", "bitsandbytes-int8")
    assert store.attestation(version.manifest) is None
    assert list(line.starts.glob("*.environment")), "jobs ran"

    before = line.started()
    monkeypatch.setenv("QUANTMILL_SIGNING_KEY", str(pair.private))
    code, output = finish(line, "--json", str(line.starts.parent / "summary.json"))
    outputs.append(output)
    assert (code, line.started()) == (0, before), output.decode()[-3000:]
    assert f"by key {pair.keyid}".encode() in output, "what was published unsigned is signed by a rerun"
    envelope = store.attestation(version.manifest)
    manifest = store.stored_manifest(version.manifest)
    assert signing.verify(envelope, manifest, Keyring.load(pair.public.parent)) == pair.keyid
    statement = json.loads(base64.b64decode(json.loads(envelope or b"")["payload"]))
    metadata = statement["predicate"]["runDetails"]["metadata"]
    assert metadata["invocationId"] == version.provenance.flow_run != ""
    assert metadata["startedOn"] <= metadata["finishedOn"], "of the run that published it"
    assert finish(line)[0] == 0
    assert store.attestation(version.manifest) == envelope, "and is then left as it is"

    for said, wanted, settings, overrides in failures():
        recipe = yaml.safe_load(line.recipe.read_text())
        line.recipe.write_text(yaml.safe_dump(recipe | overrides))
        with monkeypatch.context() as changed:
            for name, value in settings.items():
                changed.setenv(name, value)
            if said == "MLflow at":
                mlflow.stop()
            code, output = finish(line, "--json", str(line.starts.parent / "summary.json"))
        line.recipe.write_text(yaml.safe_dump(recipe))
        outputs.append(output)
        assert code == wanted, output.decode()[-3000:]
        assert said.encode() in output, output.decode()[-3000:]

    assert b"TimedOut" in outputs[-1]
    assert secrets.below(line.home, least=20) == {}
    assert secrets.below(line.starts.parent, least=10) == {}, "job files and the jobs' environments"
    assert [held for output in outputs if (held := secrets.found(output))] == []
    assert secrets.found(json.dumps(CANARIES).encode()), "the search finds what is there"


def failures() -> list[tuple[str, int, dict[str, str], dict[str, Any]]]:
    """Return what is said, the exit code, and what is changed, for each way to fail."""
    closed = "http://127.0.0.1:9"
    debug = {"QUANTMILL_DEBUG": "1"}
    return [
        ("hf://org/name", 1, debug | {"HF_ENDPOINT": closed}, {"model": {"source": "hf://org/name"}}),
        ("s3://bucket/model", 1, debug | {"AWS_ENDPOINT_URL": closed}, {"model": {"source": "s3://bucket/model"}}),
        # A job that times out, and then MLflow is down.
        ("MLflow at", 3, {"QUANTMILL_JOB_TIMEOUT_S": "0.2"}, {"variants": [{"method": "bitsandbytes", "bits": 4}]}),
    ]
