"""Settings: the only reader of QUANTMILL_* environment variables."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from quantmill.errors import SettingsError
from quantmill.files.paths import require_place, sqlite_uri
from quantmill.s3 import address

_OF_KUBERNETES = re.compile(
    r"QUANTMILL_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))=.*"
    r"|QUANTMILL_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*"
)
_LOGIN = re.compile(r"://[^/\s]*@")


class Settings(BaseSettings):
    """Folders, addresses and limits; every field is a QUANTMILL_* environment variable."""

    model_config = SettingsConfigDict(env_prefix="QUANTMILL_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path(".quantmill"), description="Folder of everything that an embedded run writes.")
    store: str = Field(default="", description="The store: a folder, or s3://bucket/prefix; default: HOME/store.")
    cache_gb: float = Field(
        default=20.0, ge=0, description="Size limit of HOME/cache, which keeps blobs of a store in a bucket."
    )
    mlflow_uri: str = Field(default="", description="MLflow tracking URI; default: SQLite in HOME/mlflow.")
    job_timeout_s: float = Field(default=6 * 3600.0, gt=0, description="A job that runs longer is stopped.")
    stage_days: float = Field(default=90.0, gt=0, description="Days after which a stage result no longer counts.")
    local_jobs: int = Field(
        default=1, ge=1, le=64, description="Jobs at once on this machine; a measurement of speed always runs alone."
    )
    speed_s: float = Field(
        default=20.0, gt=0, description="Seconds to measure a variant's speed and generations, without loading."
    )
    busy_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the machine used by other work above which a speed is marked `busy`; 1: never.",
    )
    pools: Path | None = Field(
        default=None, description="File that lists the pools for variants; default: this machine runs them."
    )
    notify_url: str = Field(
        default="",
        pattern=r"^(https?://.+)?$",
        repr=False,
        description="Webhook that the server calls when a run fails.",
    )
    watchlist: Path | None = Field(
        default=None, description="File that lists watched model sources; default: deployments/watchlist.yaml."
    )
    python: Path | None = Field(
        default=None, description="Python interpreter of the jobs; default: the running interpreter."
    )
    environments: Path | None = Field(
        default=None,
        description="Folder of the environments; several homes may share it; default: HOME/environments.",
    )
    threads: int = Field(default=0, ge=0, description="Threads of an engine; 0: as many as there are processors.")
    signing_key: Path | None = Field(
        default=None, description="Private key (PEM) that signs published versions; default: unsigned."
    )
    keyring: Path | None = Field(
        default=None,
        description="Folder of trusted public keys (PEM); default: signatures are not checked.",
    )
    licenses: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(
            "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "cc0-1.0", "cc-by-4.0", "own",
        ),
        description="Licences under which variants are published, separated by commas; `own`: a source on a disk, in a"
        " bucket or in MLflow that states no licence; `*`: any.",
    )  # fmt: skip

    debug: bool = Field(default=False, description="Show the traceback of an unexpected error.")

    @field_validator("home", "pools", "watchlist", "python", "environments", "signing_key", "keyring", mode="before")
    @classmethod
    def _path(cls, place: object) -> object:
        return Path(require_place(str(place))) if place is not None else None

    @field_validator("mlflow_uri", mode="before")
    @classmethod
    def _address(cls, place: object) -> str:
        require_place(_LOGIN.sub("://", str(place)), addresses=True)  # a password may hold any character
        return str(place)

    @field_validator("home", "environments")
    @classmethod
    def _folder(cls, place: Path | None) -> Path | None:
        if place and place.exists() and not place.is_dir():
            raise ValueError("must be a folder, or the path of one to make")
        return place

    @field_validator("store", mode="before")
    @classmethod
    def _place(cls, place: object) -> str:
        place = require_place(str(place), addresses=True)
        if "://" in place:
            address.read(place)
        elif Path(place).exists() and not Path(place).is_dir():
            raise ValueError("must be a folder, the path of one to make, or s3://bucket/prefix")
        return place

    @field_validator("python")
    @classmethod
    def _runs(cls, python: Path | None) -> Path | None:
        if python is not None and not os.access(python, os.X_OK):
            raise ValueError("must be the path of an interpreter")
        return python

    @field_validator("signing_key")
    @classmethod
    def _closed(cls, key: Path | None) -> Path | None:
        if key is not None and not key.is_file():
            raise ValueError("must be a private key's file")
        if key is not None and key.stat().st_mode & 0o077:
            raise ValueError("must be closed to others (chmod 600)")
        if key is not None and not os.access(key, os.R_OK):
            raise ValueError("must be a file that this user can read")
        return key

    @field_validator("licenses", mode="before")
    @classmethod
    def _by_comma(cls, names: object) -> object:
        return tuple(n.strip().lower() for n in names.split(",") if n.strip()) if isinstance(names, str) else names

    @field_validator("pools", "watchlist")
    @classmethod
    def _file(cls, pools: Path | None) -> Path | None:
        if pools is not None and not pools.is_file():
            raise ValueError("must be a file that exists")
        return pools

    @property
    def engine_threads(self) -> int:
        """Return the number of threads that an engine gets."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def environments_folder(self) -> Path:
        """Return the absolute path of the folder of environments."""
        return (self.environments or self.home / "environments").absolute()

    @property
    def tracking_uri(self) -> str:
        """Return MLflow's tracking URI: the configured server without its login, else SQLite under the home."""
        uri = self.mlflow_uri or sqlite_uri(self.home.absolute() / "mlflow" / "mlflow.db")
        parts = urlsplit(uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri

    @property
    def tracking_login(self) -> dict[str, str]:
        """Return the login of `mlflow_uri` as the environment variables that MLflow's client reads.

        The login is kept out of the URI because the client shows the URI in its messages.
        """
        parts = urlsplit(self.mlflow_uri)
        login = {"MLFLOW_TRACKING_USERNAME": parts.username, "MLFLOW_TRACKING_PASSWORD": parts.password}
        return {name: unquote(value) for name, value in login.items() if value}

    @property
    def store_uri(self) -> str:
        """Return the store's URI: an s3:// address, or the absolute path of a folder."""
        return self.store if "://" in self.store else str(Path(self.store or self.home / "store").absolute())


def _require_known(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for an unknown QUANTMILL_* variable: a misspelt variable would have no effect.

    `watch` sets `QUANTMILL_PULLED` for its command; Kubernetes adds variables for a service called `quantmill`.
    """
    known = [f"QUANTMILL_{field.upper()}" for field in Settings.model_fields]
    for name, value in sorted((name.upper(), value) for name, value in environment.items()):
        if not name.startswith("QUANTMILL_") or name in (*known, "QUANTMILL_PULLED"):
            continue
        if _OF_KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SettingsError(f"{name}: there is no such setting; the nearest is {near}")


def load_settings() -> Settings:
    """Return the settings in force.

    Raises:
        SettingsError: a variable is unknown, or holds a value that is not allowed.
    """
    _require_known(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "QUANTMILL_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            f"{name}: {first['msg'].removeprefix('Value error, ').lower()}, got {_LOGIN.sub('://', str(first.get('input')))!r}"
        ) from error
