"""Faults 20 and 21: hostile names and files.

The checks read files that nothing has opened; nothing may run code of such a file.
"""

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quantmill.errors import StoreError, VerificationError
from quantmill.files import contents, gguf_header, safetensors_header
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path
from quantmill.store.places import open_store
from tests import samples
from tests.conftest import SMOLLM2
from tests.hostile_gguf import field, gguf, gguf_text


class Canary:
    """Whoever unpickles it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.place),))


def weights(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def hostile(place: Path) -> dict[str, bytes]:
    """Return kinds of content that are no model's, by name."""
    torch_file = io.BytesIO()
    with zipfile.ZipFile(torch_file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(place)))
    return {
        "pickle": pickle.dumps(Canary(place)),
        "old pickle": pickle.dumps(Canary(place), protocol=0) + b"\0",
        "torch": torch_file.getvalue(),
        "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 64,
        "empty": b"",
    }


@pytest.mark.parametrize("kind", ["pickle", "old pickle", "torch", "elf", "empty"])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "model.gguf", "config.json", "tokenizer.model", "pytorch_model.bin", "x.py", "m.pt", "run"],
)
def test_fault_21_no_name_makes_a_pickle_or_a_program_a_model_file(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "file").write_bytes(hostile(tmp_path / "canary")[kind])
    with pytest.raises(VerificationError, match=f"^{name}: "):
        contents.check_file(tmp_path / "file", name)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["merges.txt", "README.md", "chat_template.jinja", "LICENSE"])
def test_fault_21_no_binary_file_passes_for_text(tmp_path: Path, name: str) -> None:
    for kind, data in hostile(tmp_path / "canary").items():
        (tmp_path / "file").write_bytes(data)
        if kind != "empty":
            with pytest.raises(VerificationError, match=f"^{name}: not text"):
                contents.check_file(tmp_path / "file", name)


@pytest.mark.parametrize(
    "name", ["model.py", "a/modeling.pyc", "pytorch_model.bin", "m.pt", "m.safetensors.bin", "lib.so", "json", "x.JSON"]
)
def test_fault_21_what_is_not_on_the_list_is_refused_whatever_it_holds(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("{}")
    with pytest.raises(VerificationError, match="not an allowed file; allowed are"):
        contents.check_file(tmp_path / "file", name)


SAFETENSORS: dict[str, bytes] = {
    "cut": b"\0\0\0",
    "longer than the file": weights({"a": entry()}, b"0000", length=1 << 40),
    "longer than allowed": weights(b"{}", length=(100 << 20) + 1),
    "no object": weights([]),
    "starts with a blank": weights(b' {"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0000"),
    "not UTF-8": weights(b'{"\xff":1}'),
    "deep": weights(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a million brackets": weights(b'{"a":[' + b"[]," * 1_000_000 + b"[]]}"),
    "same tensor twice": weights(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"0",
    ),
    "same key twice": weights(b'{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}}', b"0"),
    "more keys": weights({"a": entry() | {"code": "x"}}, b"0000"),
    "unknown type": weights({"a": entry(dtype="PICKLE")}, b"0000"),
    "type is a list": weights({"a": entry(dtype=["F32"])}, b"0000"),
    "negative shape": weights({"a": entry(shape=[-1])}, b"0000"),
    "shape of floats": weights({"a": entry(shape=[1.0])}, b"0000"),
    "shape of booleans": weights({"a": entry(shape=[True])}, b"0000"),
    "shape of text": weights({"a": entry(shape="1")}, b"0000"),
    "shape too long": weights({"a": entry(shape=[1] * 17)}, b"0000"),
    "overflow": weights({"a": entry(shape=[1 << 62, 4, 1 << 62, 4])}, b"0000"),
    "product is zero, part is huge": weights({"a": entry(shape=[1 << 64, 0], offsets=[0, 0])}),
    "huge number": weights(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"0"),
    "offsets backwards": weights({"a": entry(offsets=[4, 0])}, b"0000"),
    "one offset": weights({"a": entry(offsets=[4])}, b"0000"),
    "three offsets": weights({"a": entry(offsets=[0, 4, 4])}, b"0000"),
    "beyond the end": weights({"a": entry(offsets=[4, 8])}, b"0000"),
    "hole": weights({"a": entry(), "b": entry(offsets=[8, 12])}, b"0" * 12),
    "overlap": weights({"a": entry(), "b": entry(offsets=[2, 6])}, b"0" * 6),
    "same bytes twice": weights({"a": entry(), "b": entry()}, b"0000"),
    "bytes after the last": weights({"a": entry()}, b"0000PK\x03\x04"),
    "cut data": weights({"a": entry()}, b"000"),
    "half a byte": weights({"a": entry(dtype="F4", shape=[3], offsets=[0, 1])}, b"0"),
    "metadata of numbers": weights({"__metadata__": {"a": 1}, "a": entry()}, b"0000"),
    "metadata is a list": weights({"__metadata__": [], "a": entry()}, b"0000"),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_fault_21_bad_safetensors_headers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(SAFETENSORS[kind])
    with pytest.raises(VerificationError, match=r"^model\.safetensors: not a safetensors file"):
        contents.check_file(tmp_path / "file", "model.safetensors")


def test_safetensors_as_its_own_library_writes_them(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    kinds = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool, torch.complex64]
    tensors = {f"w{i}": torch.zeros(3, i, dtype=kind) for i, kind in enumerate(kinds)}
    path = tmp_path / "model.safetensors"
    save_file(tensors | {"scalar": torch.tensor(1.0)}, path, metadata={"format": "pt"})
    contents.check_file(path, path.name)
    with safe_open(path, "pt") as file:
        theirs = {n: (s.get_dtype(), tuple(s.get_shape())) for n in file.keys() if (s := file.get_slice(n))}  # noqa: SIM118
    assert safetensors_header.read_header(path) == theirs


def tensor(name: str = "w", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0, count: int = -1) -> bytes:
    dimensions = len(shape) if count < 0 else count
    return gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", dimensions, *shape, kind, offset)


ONE = gguf((field("general.architecture", 8, gguf_text("llama")),), (tensor(),), b"0" * 32)
HUGE = 1 << 60
GGUF: dict[str, bytes] = {
    "cut": ONE[:20],
    "cut in a field": ONE[:50],
    "cut in a tensor": ONE[:-80],
    "cut data": ONE[:-1],
    "bytes after the last": ONE + b"PK\x03\x04",
    "version 1": gguf(version=1),
    "big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
    "counts": gguf(counts=(HUGE, 0)),
    "fields": gguf(counts=(0, HUGE)),
    "more fields than there are": gguf(counts=(0, 99_999)),
    "more tensors than there are": gguf(counts=(999_999, 0)),
    "key's length": gguf((struct.pack("<Q", HUGE),), counts=(0, 1)),
    "key of 70 kB": gguf((field("k" * 70_000, 0, b"\0"),)),
    "key not UTF-8": gguf((gguf_text(b"\xff") + struct.pack("<IB", 0, 0),)),
    "key twice": gguf((field("a", 0, b"\0"), field("a", 0, b"\0"))),
    "text's length": gguf((field("a", 8, struct.pack("<Q", HUGE)),)),
    "text's length, all bits": gguf((field("a", 8, struct.pack("<Q", (1 << 64) - 1)),)),
    "unknown type": gguf((field("a", 13, b"\0" * 8),)),
    "array of unknown type": gguf((field("a", 9, struct.pack("<IQ", 77, 1) + b"\0"),)),
    "array of arrays": gguf((field("a", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 0)),)),
    "array's length": gguf((field("a", 9, struct.pack("<IQ", 4, HUGE)),)),
    "array of many texts": gguf((field("a", 9, struct.pack("<IQ", 8, HUGE)),)),
    "no alignment": gguf((field("general.alignment", 4, struct.pack("<I", 0)),)),
    "odd alignment": gguf((field("general.alignment", 4, struct.pack("<I", 24)),)),
    "alignment of another type": gguf((field("general.alignment", 10, struct.pack("<Q", 32)),)),
    "no dimension": gguf(tensors=(tensor(shape=()),)),
    "dimensions": gguf(tensors=(tensor(count=1 << 31),)),
    "five dimensions": gguf(tensors=(tensor(shape=(1,) * 5),), data=b"0" * 4),
    "empty tensor": gguf(tensors=(tensor(shape=(0,)),)),
    "overflow": gguf(tensors=(tensor(shape=(1 << 32, 1 << 32)),)),
    "row that is no whole block": gguf(tensors=(tensor(shape=(33,), kind=2),), data=b"0" * 36),
    "unknown type of a tensor": gguf(tensors=(tensor(kind=4),), data=b"0" * 32),
    "name too long": gguf(tensors=(tensor("n" * 64),), data=b"0" * 32),
    "name twice": gguf(tensors=(tensor(), tensor(offset=32)), data=b"0" * 64),
    "overlap": gguf(tensors=(tensor(), tensor("v")), data=b"0" * 64),
    "hole": gguf(tensors=(tensor(), tensor("v", offset=64)), data=b"0" * 96),
    "before the data": gguf(tensors=(tensor(offset=(1 << 64) - 32),), data=b"0" * 32),
}


@pytest.mark.parametrize("kind", GGUF)
def test_fault_21_hostile_gguf(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(GGUF[kind])
    with pytest.raises(VerificationError, match=r"^model\.gguf: .*GGUF"):
        contents.check_file(tmp_path / "file", "model.gguf")


def test_gguf_as_its_own_library_writes_and_reads_them(tmp_path: Path) -> None:
    import numpy
    from gguf import GGUFReader, GGUFWriter

    from tasks.source.places import locate

    made = tmp_path / "made.gguf"
    writer = GGUFWriter(made, "llama")
    writer.add_custom_alignment(64)
    writer.add_array("list", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float64("f", 1.0)
    writer.add_bool("b", True)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("w", numpy.zeros((3, 5), numpy.float32))
    writer.add_tensor("v", numpy.zeros((2, 2, 7), numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "one.gguf").write_bytes(ONE)
    assert gguf_header.read_header(made).chat_template == "{{ messages }}"
    for path in (made, tmp_path / "one.gguf", locate(SMOLLM2)):
        contents.check_file(path, "model.gguf")
        theirs = {t.name: tuple(int(n) for n in t.shape) for t in GGUFReader(path).tensors}
        assert gguf_header.read_header(path).tensors == theirs


def test_the_types_are_those_of_gguf() -> None:
    from gguf import GGML_QUANT_SIZES

    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == gguf_header.BLOCKS


def bounded(check: Any, data: bytes, path: Path) -> None:
    """Run a check: it returns or raises VerificationError, at once and within some multiples of the input."""
    path.write_bytes(data)
    tracemalloc.start()
    began = time.monotonic()
    try:
        check(path)
    except VerificationError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - began < 5
    assert peak < (1 << 20) + 200 * len(data)


def spoiled(good: bytes) -> st.SearchStrategy[bytes]:
    """Return a valid file with a few stretches written over, cut out, or repeated."""
    numbers = st.sampled_from([0, 1, 0x7F, 0xFF, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1])
    pieces = st.one_of(st.binary(max_size=16), numbers.map(lambda number: number.to_bytes(8, "little")))
    edits = st.lists(st.tuples(st.integers(0, len(good)), st.integers(0, 16), pieces), min_size=1, max_size=4)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for at, removed, piece in changes:
            data = data[:at] + piece + data[at + removed :]
        return data

    return edits.map(apply)


GOOD_WEIGHTS = weights({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry([2, 3], [4, 16], "F16")}, b"0" * 16)
GOOD_GGUF = gguf(
    (
        field("general.alignment", 4, struct.pack("<I", 32)),
        field("tokens", 9, struct.pack("<IQ", 8, 2) + gguf_text("a") + gguf_text("b")),
        field("numbers", 9, struct.pack("<IQ4i", 5, 4, 1, 2, 3, 4)),
        field("tokenizer.chat_template", 8, gguf_text("{{ x }}")),
    ),
    (tensor("w", (32, 2), 2), tensor("v", (4,), 0, 64)),
    b"0" * 96,
)
fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.one_of(spoiled(GOOD_WEIGHTS), st.binary(max_size=200)))
def test_fault_21_any_bytes_as_safetensors(data: bytes, tmp_path: Path) -> None:
    bounded(safetensors_header.read_header, data, tmp_path / "file")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "BOOL", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
header_like = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    json_like | st.fixed_dictionaries({"dtype": json_like, "shape": json_like, "data_offsets": json_like}),
)


@fuzz
@given(header=header_like, size=st.integers(0, 64))
def test_fault_21_any_json_as_a_safetensors_header(header: object, size: int, tmp_path: Path) -> None:
    bounded(safetensors_header.read_header, weights(header, b"0" * size), tmp_path / "file")


@fuzz
@given(data=st.one_of(spoiled(GOOD_GGUF), spoiled(ONE), st.binary(max_size=200).map(lambda tail: b"GGUF" + tail)))
def test_fault_21_any_bytes_as_gguf(data: bytes, tmp_path: Path) -> None:
    bounded(gguf_header.read_header, data, tmp_path / "file")


@fuzz
@given(data=st.binary(max_size=200), name=st.sampled_from(["a.json", "a.txt", "a.model", "LICENSE", "a.jinja"]))
def test_fault_21_any_bytes_as_text(data: bytes, name: str, tmp_path: Path) -> None:
    bounded(lambda path: contents.check_file(path, name), data, tmp_path / "file")


def test_the_starting_points_of_the_fuzzing_are_good(tmp_path: Path) -> None:
    for name, data in {"model.safetensors": GOOD_WEIGHTS, "model.gguf": GOOD_GGUF}.items():
        (tmp_path / "file").write_bytes(data)
        contents.check_file(tmp_path / "file", name)


def test_fault_21_json_that_is_too_large_too_deep_or_names_code(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a hole: the disk keeps nothing of it
    began = time.monotonic()
    with pytest.raises(
        VerificationError, match=r"config\.json: [0-9]+ bytes; a file of this kind has at most 67108864"
    ):
        contents.check_file(path, "config.json")
    assert time.monotonic() - began < 1
    for data, said in {
        b'{"a":' * 65 + b"1" + b"}" * 65: "at most 64 levels deep",
        b'{"a":' * 5000 + b"1" + b"}" * 5000: "not JSON",
        b'{"a":[' + b"1," * 16_000_000 + b"1]}": "at most 16000000 brackets",
        b"[1]": "not a JSON object",
        b'{"a":{"auto_map":{"AutoModel":"evil.Model"}}}': "holds auto_map, which names code to run",
        b'{"auto_map":"evil.Model"}': "holds auto_map",
    }.items():
        path.write_bytes(data)
        with pytest.raises(VerificationError, match=said):
            contents.check_file(path, "config.json")
    contents.check_file(path, "config.json", incoming=True)
    path.write_text(json.dumps({"model": {"vocab": {"auto_map": 7}}}))
    contents.check_file(path, "tokenizer.json")


def test_sentencepiece_as_its_own_library_writes_it(tmp_path: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    text = iter(["some words to learn from", "and a few more of them"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_writer=model, vocab_size=40, minloglevel=2, hard_vocab_limit=False
    )
    (tmp_path / "file").write_bytes(model.getvalue())
    contents.check_file(tmp_path / "file", "tokenizer.model")
    (tmp_path / "file").write_bytes(model.getvalue()[:-1])
    with pytest.raises(VerificationError, match="not a SentencePiece vocabulary"):
        contents.check_file(tmp_path / "file", "tokenizer.model")


BAD_PATHS = [
    "../up.json", "a/../../up.json", "/etc/passwd", "//x", "a//b", "./a", "a/.", "a/..", "..", ".", "", "a\\b.json", "..\\x",
    "C:x.json", "a:b", "con", "CON.json", "nul.txt", "a/com1.json", "lpt9", "a.", "a ", "a /b", "a\x00b", "a\nb", "a*b", "a?b",
    'a"b', "a<b", "a|b", "\u202egnp.exe", "x" * 600,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_fault_20_paths_that_are_refused_everywhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        safe_path(path)
    with pytest.raises(ValidationError):
        FileEntry(path=path, size_bytes=1, sha256="ab" * 32)
    with pytest.raises(VerificationError):
        contents.check_file(tmp_path / "none", path)
    store = open_store(tmp_path / "store")
    manifest = samples.manifest(())
    with pytest.raises((StoreError, ValueError)):
        store.commit(manifest, samples.version(manifest, model=path))
    assert {p.name for p in tmp_path.iterdir()} <= {"store"}
    left = [p for p in tmp_path.rglob("*") if p.is_file() and "manifests" not in p.parts]
    assert left in ([], [tmp_path / "store" / "reserve"])


@pytest.mark.parametrize("name", ["%2f..%2fup", "a#b", "a%00", "100%", "ä", "a b"])
def test_fault_20_names_that_mean_nothing_here_stay_themselves(name: str, tmp_path: Path) -> None:
    """`%2f` is three signs and `#` is one: nobody decodes them, so they lead nowhere."""
    store = open_store(tmp_path / "store")
    manifest = samples.manifest((), name=f"{name}/v")
    assert store.commit(manifest, samples.version(manifest, model=name))
    assert store.models() == {name: ["v"]}
    assert [p.name for p in (tmp_path / "store" / "models").iterdir()] == [name]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "paths",
    [
        ("a.json", "A.json"), ("a/x.json", "A/y.json"), ("a", "a/b.json"), ("A", "a/b.json"), ("a.json", "a.json"),
        ("straße.json", "STRASSE.json"), ("e\u0301.json", "\u00e9.json"), ("K.json", "\u212a.json"),
        (".quantmill/manifest.json",), (".QUANTMILL/x.json",), (".quantmill",),
    ],
)  # fmt: skip
def test_fault_20_files_that_cannot_lie_in_one_folder_are_no_manifest(paths: tuple[str, ...]) -> None:
    files = tuple(FileEntry(path=path, size_bytes=1, sha256="ab" * 32) for path in paths)
    with pytest.raises(ValidationError, match=r"collides with|listed twice|is not the model's"):
        samples.manifest(files)


def test_fault_20_links_pipes_and_devices(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.json").symlink_to("/etc/passwd")
    with pytest.raises(VerificationError, match=r"link\.json: a link"):
        contents.check_folder(folder)
    with pytest.raises(StoreError, match="only plain files can be stored"):
        open_store(tmp_path / "store").add_folder(folder)
    (folder / "link.json").unlink()
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(VerificationError, match=r"pipe\.json: not a plain file"):
        contents.check_folder(folder)
    with pytest.raises(StoreError, match="only plain files can be stored"):
        open_store(tmp_path / "store").add_folder(folder)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(VerificationError, match=r"config\.json: not a plain file"):
            contents.check_file(Path(device), "config.json")
    with pytest.raises(VerificationError, match=r"config\.json: cannot be read \(No such file"):
        contents.check_file(tmp_path / "none", "config.json")
