"""Keys and passwords of one stack: made once, in files that only their owner can read, never shown."""

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

USER = "quantmill"
"""The user of the Prefect and MLflow servers, and the name of the object store's keys."""


def _make() -> str:
    return secrets.token_hex(24)


class Logins(BaseModel):
    """The secrets; hexadecimal, so that they need no quotes in a shell or a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefect: str = Field(default_factory=_make, repr=False, description="Password of Prefect's API and dashboard.")
    mlflow: str = Field(default_factory=_make, repr=False, description="Password of MLflow's user.")
    mlflow_sessions: str = Field(
        default_factory=_make, repr=False, description="The key that MLflow signs its forms with."
    )
    s3_key: str = Field(default_factory=_make, repr=False, description="The object store's access key.")
    s3_secret: str = Field(default_factory=_make, repr=False, description="The object store's secret key.")

    @property
    def prefect_auth(self) -> str:
        """The auth string of Prefect's server and clients; the dashboard asks for it."""
        return f"{USER}:{self.prefect}"


def keep(path: Path) -> Logins:
    """Return the logins of a file; make the file if it is missing."""
    if not path.exists():
        write_private(path, Logins().model_dump_json(indent=1))
    return Logins.model_validate_json(path.read_text())


def write_shell_file(path: Path, variables: Mapping[str, str]) -> None:
    """Write the variables as lines that a shell reads with `. FILE`."""
    write_private(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))


def write_private(path: Path, text: str) -> None:
    """Write or replace a file in one step; nobody else can read the new file at any moment."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
