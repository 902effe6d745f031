"""Drills the loss of the database and of the store, with and without a restored backup."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.drill import jobs_of, look, states
from benchmarks.scheduling_factory import artifact_file, build, point_at_no_ops
from quantmill.records.report import Outcome
from tests.service import Service


def restore(service: Service) -> None:
    """Lose the database and the store in turn, with and without a restore, and start the same line again."""
    jobs, store, saved = jobs_of(service, "restore", 3, 0), service.home / "store", service.folder / "saved"
    build(service, jobs[:2])
    dump = _psql(service, "pg_dump", "--clean", "--if-exists")
    shutil.copytree(store, saved)
    build(service, jobs)  # one more after the backup
    before = len(states(service, "restore"))

    _new_database(service)
    _psql(service, "psql", "--quiet", given=dump)
    service.start_server()
    look(
        "database restored: its runs are those of the backup",
        len(states(service, "restore")) == 2,
        states(service, "restore"),
    )
    found = build(service, jobs)
    look(
        "database restored, store as it was: nothing is made again",
        len(states(service, "restore")) == 2 and _cached(found) == 3,
        _cached(found),
    )

    shutil.rmtree(store)
    shutil.copytree(saved, store)
    found = build(service, jobs)
    look(
        "store restored: what it missed is made again",
        (_cached(found), len(states(service, "restore"))) == (2, 3),
        _cached(found),
    )

    shutil.rmtree(store)
    artifact_file(service)
    found = build(service, jobs)
    look(
        "store lost: all is made again, whatever the server says of it",
        (_cached(found), all(o.report for o in found.values())) == (0, True),
        states(service, "restore"),
    )

    _new_database(service)
    service.start_server()
    boot = service.quantmill("bootstrap")
    look(
        "database lost: bootstrap makes all anew",
        boot.returncode == 0 and "unchanged" not in boot.stdout,
        boot.stdout.count("created"),
    )
    found = build(service, jobs)
    look(
        "database lost, store as it was: nothing is made again",
        _cached(found) == 3 and not states(service, "restore"),
        _cached(found),
    )
    point_at_no_ops(service)
    more = build(service, jobs_of(service, "restored", 1, 0))
    look(
        "database lost: the workers that were there go on",
        all(o.report for o in more.values()),
        (before, states(service, "restored")),
    )


def _cached(outcomes: dict[str, Outcome]) -> int:
    return sum(made.cached for made in outcomes.values())


def _new_database(service: Service) -> None:
    """Replace the database by an empty one, which the server uses from its next start on."""
    server = service.processes["server"]
    server.terminate()
    server.wait()
    service.replace_database()


def _psql(service: Service, program: str, *options: str, given: bytes = b"") -> bytes:
    """Run one of Postgres' programs on the server's database."""
    place = service.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].partition("host=")[2]
    binary = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))[-1]
    command = [str(binary), "-h", place, "-U", "quantmill", *options, "postgres"]
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout
