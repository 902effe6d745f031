"""Reads the facts of environments: table `tool.quantmill` of `environments/NAME/pyproject.toml`."""

import hashlib
import tomllib

from pydantic import BaseModel, ConfigDict, Field

from quantmill.errors import RequestError
from quantmill.files.yaml_file import checked
from tasks import installed


class Environment(BaseModel):
    """The facts of an environment: its purpose, its costs, and its check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The name of the environment's folder under `environments/`.")
    purpose: str = Field(min_length=1, description="The purpose of the environment, in one line.")
    needed_by: tuple[str, ...] = Field(default=(), description="Methods, commands or tests that need the environment.")
    disk_mb: int = Field(gt=0, description="Megabytes on the disk, measured.")
    minutes: float = Field(gt=0, description="Minutes to create the environment on two cores, measured.")
    imports: tuple[str, ...] = Field(default=(), description="Modules that the interpreter must be able to import.")
    programs: tuple[str, ...] = Field(
        default=(), description="Commands in the `bin` folder that must exit with 0, such as `llama-server --version`."
    )
    other_torch: str = Field(default="", description="Why the version of torch differs from the factory's lock.")

    @property
    def pins(self) -> dict[str, str]:
        """Package -> version that the lock pins."""
        return installed.pins(self.name)


def names() -> list[str]:
    """Return the names of all environments."""
    if not installed.ENVIRONMENTS.is_dir():
        return []
    return sorted(path.name for path in installed.ENVIRONMENTS.iterdir() if (path / "pyproject.toml").is_file())


def read(name: str) -> Environment:
    """Return the environment with a name.

    Raises:
        RequestError: there is no such environment, or its `pyproject.toml` holds a value that is not allowed.
    """
    if name not in names():
        raise RequestError(f"{name}: there is no such environment; allowed: {', '.join(names())}")
    path = installed.ENVIRONMENTS / name / "pyproject.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as TOML: {' '.join(str(error).split())[:200]}") from error
    return checked(path, {"name": name, **content.get("tool", {}).get("quantmill", {})}, Environment)


def read_all() -> list[Environment]:
    """Return all environments, sorted by name."""
    return [read(name) for name in names()]


def lock_digest(name: str) -> str:
    """Return the sha256 of an environment's lock; another lock makes another environment."""
    return hashlib.sha256(installed.lock_of(name).read_bytes()).hexdigest()
