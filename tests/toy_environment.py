"""Environments of tests: wheels on a disk, and an `environments/` folder that describes environments."""

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks import installed
from tasks.environments import Environment, read

CHILD = (
    "annotated-types",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "python-dotenv",
    "pyyaml",
    "typing-extensions",
    "typing-inspection",
)
"""The packages that a job's child imports, and their dependencies."""


@contextmanager
def described_in(folder: Path) -> Iterator["Described"]:
    """Use `folder/environments` as the described environments, and `folder/wheels` as pip's only source."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed, "ENVIRONMENTS", folder / "environments")
        for name, value in {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder / "wheels"),
            "PIP_CONFIG_FILE": "/dev/null",
        }.items():
            patch.setenv(name, value)
        patch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        installed.pins.cache_clear()
        try:
            yield Described(folder)
        finally:
            installed.pins.cache_clear()


class Described:
    """The described environments of a test, and the folder that they are made in."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.root = folder / "wheels", folder / "made"
        self.wheels.mkdir(parents=True, exist_ok=True)

    def describe(self, name: str, pins: dict[str, str], *lines: str) -> Environment:
        """Write an environment's description and lock."""
        folder = installed.ENVIRONMENTS / name
        folder.mkdir(parents=True, exist_ok=True)
        table = ["[tool.quantmill]", 'purpose = "a test"', "disk_mb = 1", "minutes = 0.1", *lines]
        (folder / "pyproject.toml").write_text("\n".join(table) + "\n")
        (folder / "requirements.lock").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        installed.pins.cache_clear()
        return read(name)

    def add_package(self, version: str, name: str = "toy-engine", needs: str = "") -> None:
        """Make the wheel of a package that has one module."""
        plain = name.replace("-", "_")
        info = f"{plain}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        self._write(
            self.wheels / f"{plain}-{version}-py3-none-any.whl",
            info,
            {
                f"{plain}.py": f'VERSION = "{version}"\n'.encode(),
                f"{info}/METADATA": (metadata + (needs and f"Requires-Dist: {needs}\n")).encode(),
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            },
        )

    def add_installed(self, name: str) -> str:
        """Make a wheel of a package that is installed here, and return its version: tests need no network."""
        found = importlib.metadata.distribution(name)
        plain, tags = name.replace("-", "_"), (found.read_text("WHEEL") or "").partition("Tag: ")[2].split()[0]
        unpacked = [path for path in found.files or () if path.parts[0] != ".." and path.suffix != ".pyc"]
        files = {path.as_posix(): Path(str(path.locate())).read_bytes() for path in unpacked}
        info = next(path.parts[0] for path in unpacked if path.name == "METADATA")
        self._write(self.wheels / f"{plain}-{found.version}-{tags}.whl", info, files)
        return found.version

    def _write(self, wheel: Path, info: str, files: dict[str, bytes]) -> None:
        record = f"{info}/RECORD"
        lines = [f"{record},,"]
        with zipfile.ZipFile(wheel, "w") as packed:
            for path, data in files.items():
                if path != record:
                    packed.writestr(path, data)
                    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                    lines.append(f"{path},sha256={digest},{len(data)}")
            packed.writestr(record, "\n".join(lines) + "\n")
