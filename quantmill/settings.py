"""Settings: the only reader of QUANTMILL_* environment variables."""

import os
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from quantmill.errors import SettingsError


class Settings(BaseSettings):
    """Where things lie and how jobs run; every field is a QUANTMILL_* variable."""

    model_config = SettingsConfigDict(env_prefix="QUANTMILL_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path(".quantmill"), description="Everything of an embedded run lies here.")
    store: Path | None = Field(default=None, description="The store's folder; default: HOME/store.")
    mlflow_uri: str = Field(default="", description="MLflow tracking URI; default: SQLite in HOME/mlflow.")
    job_timeout_s: float = Field(default=6 * 3600.0, gt=0, description="A job that runs longer is stopped.")
    stage_days: float = Field(default=90.0, gt=0, description="Days after which a stage result no longer counts.")
    local_jobs: int = Field(
        default=1, ge=1, le=64, description="Jobs at once on this machine; a measurement always runs alone."
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
    threads: int = Field(default=0, ge=0, description="Threads of an engine; 0: as many as there are processors.")

    debug: bool = Field(default=False, description="Show the traceback of an unexpected error.")

    @field_validator("home", "store")
    @classmethod
    def _folder(cls, place: Path | None) -> Path | None:
        if place is not None and place.exists() and not place.is_dir():
            raise ValueError("must be a folder, or the path of one to make")
        return place

    @field_validator("python")
    @classmethod
    def _runs(cls, python: Path | None) -> Path | None:
        if python is not None and not os.access(python, os.X_OK):
            raise ValueError("must be the path of an interpreter")
        return python

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
    def tracking_uri(self) -> str:
        """Where MLflow is: the server that is named, else SQLite under the home."""
        return self.mlflow_uri or f"sqlite:///{self.home.absolute() / 'mlflow' / 'mlflow.db'}"

    @property
    def store_path(self) -> Path:
        """The store's folder."""
        return self.store or self.home / "store"


def load_settings() -> Settings:
    """Return the settings in force.

    Raises:
        SettingsError: a variable holds a value that is not allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "QUANTMILL_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            f"{name}: {first['msg'].removeprefix('Value error, ').lower()}, got {str(first.get('input'))!r}"
        ) from error
