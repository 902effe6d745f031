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
    """Where things lie and how jobs run; every field is a QUANTMILL_* variable."""

    model_config = SettingsConfigDict(env_prefix="QUANTMILL_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path(".quantmill"), description="Everything of an embedded run lies here.")
    store: str = Field(default="", description="The store: a folder, or s3://bucket/prefix; default: HOME/store.")
    cache_gb: float = Field(default=20.0, ge=0, description="Blobs of a bucket's store that are kept in HOME/cache.")
    mlflow_uri: str = Field(default="", description="MLflow tracking URI; default: SQLite in HOME/mlflow.")
    job_timeout_s: float = Field(default=6 * 3600.0, gt=0, description="A job that runs longer is stopped.")
    stage_days: float = Field(default=90.0, gt=0, description="Days after which a stage result no longer counts.")
    local_jobs: int = Field(
        default=1, ge=1, le=64, description="Jobs at once on this machine; a measurement always runs alone."
    )
    speed_s: float = Field(
        default=20.0, gt=0, description="Seconds for a variant's speed and generations, loading not counted."
    )
    busy_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the machine from which other work makes a speed `busy`; 1: it never does.",
    )
    pools: Path | None = Field(
        default=None, description="File that lists the pools that variants run on; default: this machine."
    )
    notify_url: str = Field(
        default="", pattern=r"^(https?://.+)?$", repr=False, description="Webhook that is told of lines that failed."
    )
    watchlist: Path | None = Field(
        default=None, description="File that lists where base models land; default: deployments/watchlist.yaml."
    )
    python: Path | None = Field(default=None, description="Interpreter of the jobs; default: the running one.")
    environments: Path | None = Field(
        default=None,
        description="Folder of the environments, which several homes may share; default: HOME/environments.",
    )
    threads: int = Field(default=0, ge=0, description="Threads of an engine; 0: as many as there are processors.")
    signing_key: Path | None = Field(
        default=None, description="Private key, PEM, that what is published is signed with; default: unsigned."
    )
    keyring: Path | None = Field(
        default=None,
        description="Folder of public keys, PEM, whose signatures are trusted; default: none is asked for.",
    )
    licenses: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(
            "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "cc0-1.0", "cc-by-4.0", "own",
        ),
        description="Licences under which variants are published, by comma; `own`: a source on a disk, in a bucket or in"
        " MLflow that states none; `*`: any.",
    )  # fmt: skip

    debug: bool = Field(default=False, description="Show the traceback of an unexpected error.")

    @field_validator("home", "pools", "watchlist", "python", "environments", "signing_key", "keyring", mode="before")
    @classmethod
    def _path(cls, place: object) -> object:
        return Path(require_place(str(place))) if place is not None else None

    @field_validator("mlflow_uri", mode="before")
    @classmethod
    def _address(cls, place: object) -> str:
        require_place(_LOGIN.sub("://", str(place)), addresses=True)  # a password may hold any sign
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
        """The number of threads that an engine gets."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def environments_folder(self) -> Path:
        """The absolute path of the folder that environments are made in."""
        return (self.environments or self.home / "environments").absolute()

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is: the server that is named, without its login, else SQLite under the home."""
        uri = self.mlflow_uri or sqlite_uri(self.home.absolute() / "mlflow" / "mlflow.db")
        parts = urlsplit(uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri

    @property
    def tracking_login(self) -> dict[str, str]:
        """The login of the server's URI as the variables that MLflow's client reads: it shows the URI in its messages."""
        parts = urlsplit(self.mlflow_uri)
        login = {"MLFLOW_TRACKING_USERNAME": parts.username, "MLFLOW_TRACKING_PASSWORD": parts.password}
        return {name: unquote(value) for name, value in login.items() if value}

    @property
    def store_uri(self) -> str:
        """Where the store is: an s3:// address, or the absolute path of a folder."""
        return self.store if "://" in self.store else str(Path(self.store or self.home / "store").absolute())


def _require_known(environment: Mapping[str, str]) -> None:
    """Raise SettingsError where a QUANTMILL_* variable is none of ours: misspelt, it would switch off what it asks for.

    `QUANTMILL_PULLED` is what `watch` gives its command; Kubernetes adds variables for a service called `quantmill`.
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
        SettingsError: a variable holds a value that is not allowed, or is none of ours.
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
