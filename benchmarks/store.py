"""Times publish and pull against `aws s3 cp` on a SeaweedFS of its own: `python -m benchmarks.store`.

Each round copies the same files in all four ways, in alternating order. Start-up is excluded on both sides: publish and pull are
timed after all imports, and the time to copy one byte is subtracted from the time of `aws s3 cp`. Publishing means hashing, sending,
checking and committing; pulling means resolving, fetching, checking every byte, syncing and swapping. The AWS command line gets a
virtual environment of its own.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from quantmill.client.client import pull, resolve
from quantmill.store.places import open_store
from tests.s3_server import s3_server
from tests.samples import manifest, version

AWSCLI = "awscli==1.46.3"
FILES = 3


def weights(folder: Path, size: int) -> None:
    """Write safetensors files of random weights with correct headers."""
    folder.mkdir()
    for number in range(FILES):
        length = size // FILES
        header = json.dumps({"w": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
        with (folder / f"model-{number + 1:05}-of-{FILES:05}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for start in range(0, length, 1 << 24):
                file.write(random.randbytes(min(1 << 24, length - start)))


def publish_timed(place: str, source: Path) -> float:
    """Publish the source once, and return the seconds."""
    store = open_store(place)
    store.models()  # connected
    began = time.perf_counter()
    made = manifest(store.add_folder(source))
    store.commit(made, version(made))
    return time.perf_counter() - began


def pull_timed(place: str, target: Path) -> float:
    """Pull the model once, and return the seconds."""
    store = open_store(place)
    store.models()  # connected
    began = time.perf_counter()
    pull(store, resolve(store, "m"), target)
    return time.perf_counter() - began


def child(role: str, place: str, folder: Path) -> tuple[float, int]:
    """Run `publish` or `pull` in a process of its own; return seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.store", "--role", role, "--place", place, "--folder", str(folder)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return said["seconds"], said["peak_memory_bytes"]


def copy(aws: Path, source: str, target: str) -> float:
    """Copy with `aws s3 cp`, and return the seconds."""
    began = time.perf_counter()
    subprocess.run([str(aws), "s3", "cp", "--quiet", "--recursive", source, target], check=True)
    return time.perf_counter() - began


def install_aws(folder: Path) -> Path:
    """Install the AWS command line in a virtual environment, and return the program."""
    venv.create(folder, with_pip=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", AWSCLI], check=True)
    return folder / "bin" / "aws"


def measure(folder: Path, aws: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """Return operation -> seconds of each round, and `peak MB` -> the peak memory of each process."""
    seconds: dict[str, list[float]] = {name: [] for name in ("publish", "aws up", "pull", "aws down")}
    seconds["peak MB"] = []
    weights(folder / "source", size)
    (folder / "byte").mkdir()
    (folder / "byte" / "byte").write_bytes(b"1")
    with s3_server(folder / "weed") as server:
        os.environ.update(server.environment)
        server.client().create_bucket(Bucket="bucket")
        for number in range(rounds):
            base = f"s3://bucket/{number}"

            def up(base: str = base) -> None:
                once = copy(aws, str(folder / "byte"), f"{base}/byte/")
                seconds["aws up"].append(copy(aws, str(folder / "source"), f"{base}/aws/") - once)

            def ours(role: str, where: Path, base: str = base) -> None:
                spent, memory = child(role, f"{base}/store", where)
                seconds[role].append(spent)
                seconds["peak MB"].append(memory / 1e6)

            def down(base: str = base) -> None:
                once = copy(aws, f"{base}/byte/", str(folder / "got-byte"))
                seconds["aws down"].append(copy(aws, f"{base}/aws/", str(folder / "aws")) - once)

            steps = [lambda: ours("publish", folder / "source"), up]
            for step in steps if number % 2 else steps[::-1]:
                step()
            steps = [lambda: ours("pull", folder / "pulled"), down]
            for step in steps if number % 2 else steps[::-1]:
                step()
            for left in ("pulled", "aws", "got-byte"):
                shutil.rmtree(folder / left)
            print({name: round(times[-1], 2) for name, times in seconds.items()}, flush=True)
            subprocess.run([str(aws), "s3", "rm", "--quiet", "--recursive", base], check=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--aws", type=Path, help="An AWS command line that is installed already.")
    parser.add_argument("--folder", type=Path, help="Where to work; default: a temporary folder.")
    parser.add_argument("--role", choices=("publish", "pull"), help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        timed = publish_timed if asked.role == "publish" else pull_timed
        spent = timed(asked.place, asked.folder)
        print(
            json.dumps(
                {"seconds": spent, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="store-", dir=asked.folder) as name:
        aws = asked.aws or install_aws(Path(name) / "awscli")
        seconds = measure(Path(name), aws, asked.size_mb * 10**6, asked.rounds)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for ours, theirs in (("publish", "aws up"), ("pull", "aws down")):
        rates = [asked.size_mb / middle[name] for name in (ours, theirs)]
        pairs = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
        print(
            f"{ours}: {rates[0]:.0f} MB/s, aws s3 cp: {rates[1]:.0f} MB/s, ratio of medians {rates[0] / rates[1]:.2f}, "
            f"of rounds {', '.join(f'{pair:.2f}' for pair in sorted(pairs))}"
        )
    print(f"peak memory of publish and pull: {max(seconds['peak MB']):.0f} MB")


if __name__ == "__main__":
    main()
