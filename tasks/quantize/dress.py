"""Replaces the chat template and the sampling settings in a GGUF file; the tensors stay the same.

A GGUF file holds these settings as metadata, so a change of the model's companion files needs a new GGUF file. The gguf
package makes the new fields from the companion files; this module copies all other bytes unchanged.
"""

import shutil
import struct
import tempfile
from pathlib import Path

from tasks.model.gguf import read_blocks

_REPLACED = ("tokenizer.chat_template", "general.sampling.")


def dress(gguf_file: Path, folder: Path, out: Path) -> None:
    """Write a copy of `gguf_file` to `out`, with the metadata that the companion files in `folder` state."""
    reader = read_blocks(gguf_file)
    fields = {
        name: b"".join(bytes(part) for part in field.parts)
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")  # the reader lists the header's version and counts as fields too
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
    """Return field name -> bytes in a GGUF file, as gguf writes them for a folder's companion files."""
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
