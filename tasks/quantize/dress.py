"""Gives a GGUF file the chat template and sampling settings of another state of its model; its tensors' bytes stay.

In a folder these are files of their own. A GGUF holds them as metadata, so the file is written anew: the fields in question
are what gguf makes of the folder, everything else is copied as it stands.
"""

import shutil
import struct
import tempfile
from pathlib import Path

from tasks.model.gguf import read_blocks

_REPLACED = ("tokenizer.chat_template", "general.sampling.")


def dress(gguf_file: Path, folder: Path, out: Path) -> None:
    """Write `gguf_file` to `out` with the fields that the companions of `folder` say."""
    reader = read_blocks(gguf_file)
    fields = {
        name: b"".join(bytes(part) for part in field.parts)
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")  # the file's counts, which the reader lists as fields
    }
    new = _fields_of(folder)
    kept = {name: data for name, data in fields.items() if name in new or not name.startswith(_REPLACED)} | new
    infos = b"".join(bytes(part) for tensor in reader.tensors for part in tensor.field.parts)
    header = struct.pack("<4sIQQ", b"GGUF", _version(gguf_file), len(reader.tensors), len(kept))
    head = header + b"".join(kept.values()) + infos
    with gguf_file.open("rb") as old, out.open("wb") as file:
        file.write(head + bytes(-len(head) % reader.alignment))
        old.seek(reader.data_offset)
        shutil.copyfileobj(old, file, 1 << 22)


def _fields_of(folder: Path) -> dict[str, bytes]:
    """Return the fields that gguf makes of a folder's companions, as they stand in a file."""
    import gguf

    said = gguf.Metadata.load(model_path=folder, model_name="model")
    sampling = {name: value for name, value in vars(said).items() if name.startswith("sampling_")}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "fields.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        gguf.Metadata(name="model", **sampling).set_gguf_meta_model(writer)
        if template := gguf.SpecialVocab(folder, load_merges=False).chat_template:
            writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        fields = read_blocks(path).fields.items()
        return {n: b"".join(map(bytes, field.parts)) for n, field in fields if n.startswith(_REPLACED)}


def _version(gguf_file: Path) -> int:
    with gguf_file.open("rb") as file:
        return int(struct.unpack("<4sI", file.read(8))[1])
