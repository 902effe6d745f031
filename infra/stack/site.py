"""The folder and the addresses of a stack, and the environment of its processes and its users."""

import os
import shlex
import socket
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows import pools
from flows.pools import Pool, PoolList
from infra.stack import logins, postgres, seaweedfs
from infra.stack.logins import Logins
from quantmill.errors import RequestError
from quantmill.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
POOLS = CHECKOUT / "deployments" / "pools.yaml"
BUCKET = "quantmill"
_LOOPBACK = "127.0.0.1"
_SOCKET_BYTES = 107  # the longest path that a socket can have
_DRIVER = Path("/proc/driver/nvidia/gpus")
_COMMAND = {"command": shlex.join([sys.executable, "-m", "prefect.engine"])}
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# Keys and profiles for other servers: clients would send such keys to this stack, or connect to the other servers.
_OTHERS = ("PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_TRACKING_TOKEN", "AWS_SESSION_TOKEN", "AWS_PROFILE")


class Site(BaseModel):
    """One stack: its folder, its addresses, its logins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings = Field(description="The settings of its workers; servers that they name are not started.")
    host: str = Field(description="The address that Prefect and MLflow listen on.")
    port: int = Field(description="Prefect's port; the others follow it.")
    logins: Logins = Field(description="Its keys and passwords.")
    has_weed: bool = Field(description="Whether an object store of our own holds the store.")

    @property
    def folder(self) -> Path:
        """The folder of the stack's own files."""
        return folder_of(self.settings)

    @property
    def prefect(self) -> str:
        """The dashboard's address."""
        return f"http://{self.host}:{self.port}"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return self.settings.tracking_uri if self.settings.mlflow_uri else f"http://{self.host}:{self.port + 1}"

    @property
    def s3_ports(self) -> dict[str, int]:
        """The object store's ports; the first is that of its API."""
        return {name: self.port + 2 + at for at, name in enumerate(seaweedfs.PORTS)}

    @property
    def s3(self) -> str:
        """The address of the object store's API, on the loopback: its inner ports ask for no key."""
        return f"http://{_LOOPBACK}:{self.s3_ports['s3']}"

    @property
    def client_environment(self) -> dict[str, str]:
        """The environment variables that a shell needs to use the stack."""
        named = {name: getattr(self.settings, name) for name in Settings.model_fields}
        paths = {
            f"QUANTMILL_{name.upper()}": str(path.absolute()) for name, path in named.items() if isinstance(path, Path)
        }
        found = _QUIET | paths | {"QUANTMILL_STORE": self.settings.store_uri}
        found |= {"PREFECT_API_URL": f"{self.prefect}/api", "PREFECT_API_AUTH_STRING": self.logins.prefect_auth}
        found |= {"QUANTMILL_MLFLOW_URI": self.settings.mlflow_uri or self.mlflow}
        if not self.settings.mlflow_uri:
            found |= {"MLFLOW_TRACKING_USERNAME": logins.USER, "MLFLOW_TRACKING_PASSWORD": self.logins.mlflow}
        if self.has_weed:
            found |= {"QUANTMILL_STORE": f"s3://{BUCKET}/store", "AWS_ENDPOINT_URL": self.s3}
            found |= {"AWS_ACCESS_KEY_ID": self.logins.s3_key, "AWS_SECRET_ACCESS_KEY": self.logins.s3_secret}
            found |= {"AWS_DEFAULT_REGION": "us-east-1"}
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the stack's processes: that of this process, and a client's variables."""
        kept = {name: value for name, value in os.environ.items() if name not in _OTHERS}
        path = os.pathsep.join(filter(None, [str(CHECKOUT), kept.get("PYTHONPATH", "")]))
        return kept | self.client_environment | {"PYTHONPATH": path, "PREFECT_HOME": str(self.folder / "prefect")}

    def require_free_ports(self) -> None:
        """Raise RequestError if the host is not an address of this machine, or a port is in use."""
        open_ports = [(self.host, self.port), (self.host, self.port + 1)]
        for host, port in (*open_ports, *((_LOOPBACK, port) for port in self.s3_ports.values())):
            try:
                with socket.create_server((host, port)):
                    pass
            except OSError as error:
                raise RequestError(f"--host, --port: {host}:{port}: {os.strerror(error.errno or 0)}") from error


def folder_of(settings: Settings) -> Path:
    """Return the stack's folder in a home.

    Raises:
        RequestError: the home's path is too long for a socket below it.
    """
    folder = settings.home.absolute() / "stack"
    if len(str(folder / "postgres" / postgres.SOCKET).encode()) > _SOCKET_BYTES:
        raise RequestError(
            f"QUANTMILL_HOME: {settings.home}: too long a path for sockets below it; choose a shorter one"
        )
    return folder


def pools_for_here(path: Path, folder: Path) -> tuple[Path, list[Pool], list[Pool]]:
    """Return the file of pools that this machine can serve, its pools, and the pools left out.

    Without a GPU the pools of device cuda are left out: a variant would wait there for ever. All process workers are on this
    machine, so their runs start in this interpreter, without the process in which Prefect prepares runs.
    """
    listed = pools.read_pools(path)
    able = [pool for pool in listed if pool.device == "cpu" or _DRIVER.exists()]
    left_out = [pool for pool in listed if pool not in able]
    kept = [
        pool.model_copy(update={"job_variables": _COMMAND | pool.job_variables}) if pool.type == "process" else pool
        for pool in able
    ]
    if not kept:
        raise RequestError(f"{path}: every pool is of device cuda, and this machine shows no NVIDIA driver")
    path = folder / "pools.yaml"
    path.write_text(PoolList(pools=tuple(kept)).model_dump_json(indent=1))  # JSON is YAML
    return path, kept, left_out
