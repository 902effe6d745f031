"""The cache of snapshots, `HOME/snapshots/<digest>`: a missing folder is made again from its origin."""

import shutil
import tempfile
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.files import keys
from quantmill.files.entries import FileEntry, files_digest
from quantmill.files.walk import plain_files
from quantmill.recipe.recipe import VariantSpec
from quantmill.records import planning
from quantmill.records.artifact import Origin, Snapshot
from tasks.sandbox import Sandbox
from tasks.source import fields, places
from tasks.source.job import Arguments

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "llama-cpp-python")


def local_folder(snapshot: Snapshot, sandbox: Sandbox) -> Path:
    """Return the snapshot's folder on this machine, made again from its origin if the folder is missing.

    Raises:
        SourceError: the folder made again has another digest than the snapshot.
    """
    folder = sandbox.home / "snapshots" / snapshot.digest
    if not all((path := folder / f.path).is_file() and path.stat().st_size == f.size_bytes for f in snapshot.files):
        shutil.rmtree(folder, ignore_errors=True)
        with fields.of_model():
            again = take_in(snapshot.origin, sandbox)
            if again.digest != snapshot.digest:
                source = snapshot.origin.request.source
                raise SourceError(f"{source}: made again with digest {again.digest}, was {snapshot.digest}")
    return folder


def packages(origin: Origin) -> tuple[str, ...]:
    """Return the packages whose versions can change the bytes of the origin's snapshot."""
    spec = _packed(origin)
    return (*PACKAGES, *(name for name in spec.maker.engines if name not in PACKAGES)) if spec else PACKAGES


def _packed(origin: Origin) -> VariantSpec | None:
    """Return the `imported` variant of a folder with quantized weights; None for plain weights or a GGUF."""
    packing = origin.architecture.packing
    if packing is None or origin.kind == "gguf":
        return None
    return VariantSpec(method="imported", bits=packing.bits).found(packing, origin.digest)


def take_in(origin: Origin, sandbox: Sandbox) -> Snapshot:
    """Make the snapshot's folder in the cache and return the snapshot; a failure leaves no partial folder."""
    path = places.open_source(origin.request, sandbox.home).fetch(origin)
    spec = _packed(origin)
    told = Arguments(
        form="packed" if spec else origin.kind,
        source=path,
        files=tuple(file.path for file in origin.files),
        packing=spec.packing if spec else None,
        runtime=spec.runtime(origin.architecture.experts) if spec else "",
    )
    with sandbox.run(told, told.form, packages(origin)) as result:
        files = _entries(result.out)
        parameters = planning.count_parameters(sorted(result.out.glob("*.safetensors")))
        folder = sandbox.home / "snapshots" / files_digest(files)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            waiting = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".incoming-"))
            result.out.rename(waiting / "snapshot")
            (waiting / "snapshot").rename(folder)
            waiting.rmdir()
        return Snapshot(origin=origin, files=files, parameters=parameters, **result.value)


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    paths = plain_files(folder, lambda path: SourceError(f"{path.name}: neither a file nor a folder"))
    return tuple(
        FileEntry(path=p.relative_to(folder).as_posix(), size_bytes=p.stat().st_size, sha256=keys.file_sha256(p))
        for p in paths
    )
