"""Token sets from files, mixtures and templates: windows, complete keys, a job for templates only."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import NotCached, TextError
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest
from tasks.builtin_text import builtin_text
from tasks.publish import manifests
from tasks.source import templates
from tasks.text import calibrate
from tests.token_bench import TEMPLATE, Bench

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def rows(path: Path, letter: str, count: int = 60, field: str = "text") -> str:
    lines = [json.dumps({field: f"{letter * 9} {n} {letter * 30}"}) for n in range(count)]
    path.write_text("\n".join(lines))
    return str(path)


def test_each_source_gives_its_share_of_windows(bench: Bench, tmp_path: Path) -> None:
    mix = [{"source": rows(tmp_path / "a.jsonl", "a"), "weight": 2}, {"source": rows(tmp_path / "b.jsonl", "b")}]
    texts = bench.texts(made := bench.build(mix=mix))
    assert [text[0] + ("a" if "aaa" in text else "b") for text in texts] == ["^a"] * 4 + ["^b"] * 2
    assert made.texts == tuple(keys.file_sha256(Path(str(entry["source"]))) for entry in mix)
    assert made.template_digest == ""


def test_a_document_that_two_sources_hold_counts_once(bench: Bench, tmp_path: Path) -> None:
    a, b = rows(tmp_path / "a.jsonl", "a"), rows(tmp_path / "b.jsonl", "a", field="body")
    with pytest.raises(
        TextError, match=r"^calibration\.mix\[1\]\.source: .*b\.jsonl: holds no text on the calibration"
    ):
        bench.build(mix=[{"source": a}, {"source": b, "field": "body"}])


def test_the_key_covers_everything_and_no_path(bench: Bench, tmp_path: Path) -> None:
    a, b = rows(tmp_path / "a.jsonl", "a"), rows(tmp_path / "b.jsonl", "b")
    mix: list[dict[str, Any]] = [{"source": a, "weight": 1}, {"source": b, "weight": 1}]
    bench.build(mix=mix)
    held = bench.count()  # with the evaluation's

    def new(**calibration: Any) -> int:
        nonlocal held
        before = held
        bench.build(**calibration)
        held = bench.count()
        return held - before

    assert new(mix=mix) == 0
    assert new(mix=[dict(reversed(entry.items())) for entry in mix]) == 0
    assert new(mix=[{"source": a, "weight": 7}, {"source": b, "weight": 7}]) == 0, "the same share of windows"
    moved = Path(b).rename(tmp_path / "moved.jsonl")
    assert new(mix=[mix[0], {"source": str(moved)}]) == 0, "bytes count, not where they lie"
    assert new(mix=[mix[0] | {"weight": 2}, {"source": str(moved)}]) == 1
    assert new(mix=[{"source": str(moved)}, mix[0]]) == 1
    assert new(mix=[mix[0], {"source": str(moved), "field": "text"}]) == 1
    lines = moved.read_text().splitlines()
    moved.write_text("\n".join([*lines[:-1], json.dumps({"text": "another"})]))
    assert new(mix=[mix[0], {"source": str(moved)}]) == 1, "one row of one source"
    assert new(source=a) == 1
    text = Path(a).rename(tmp_path / "a.txt")
    assert new(source=str(text)) == 1, "the same bytes, read as plain text"
    other = bench.made(TEMPLATE + " ")
    bench.build(snapshot=other, mix=[{"source": str(moved)}])
    assert bench.count() > held, "rows may hold messages, so the template is in their key"


def test_the_built_in_text_keeps_its_key(bench: Bench) -> None:
    """The key of the first release, spelled out: nothing of rows, mixtures or templates is in it."""
    import hashlib

    from tasks import installed as engines

    bench.build()
    old = keys.stage_key(
        "tokens",
        request={"samples": 6, "sequence_length": 32, "seed": 0},
        role="calibration",
        text=hashlib.sha256(builtin_text().encode()).hexdigest(),
        tokenizer=bench.snapshot.tokenizer_digest,
        revision=1,
        engines=engines.locked(("tokenizers", "safetensors")),
    )
    assert bench.store.look_up("tokens", old)


def test_a_manifest_names_each_source_with_its_digest_and_no_place(bench: Bench, tmp_path: Path) -> None:
    said = manifests.calibration_of(made := bench.build(mix=[{"source": rows(tmp_path / "a.jsonl", "a"), "weight": 2}]))
    assert said["mix"] == [{"source": "a.jsonl", "weight": 2.0, "sha256": made.texts[0]}]
    simple = manifests.calibration_of(made := bench.build())
    assert simple == {
        "sha256": made.digest,
        "text_sha256": made.text_sha256,
        "source": "builtin",
        "samples": 6,
        "sequence_length": 32,
        "seed": 0,
    }, "what it always was"


@pytest.mark.slow
def test_messages_and_wrapped_text_are_rendered_by_the_model_s_template(bench: Bench, tmp_path: Path) -> None:
    """In a job of its own, once; a rerun needs none."""
    talks = [
        {"messages": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": f"tell {n}"}]}
        for n in range(80)
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in talks))
    asked: dict[str, Any] = {
        "mix": [{"source": str(path)}, {"source": rows(tmp_path / "a.jsonl", "a"), "chat_template": True}]
    }
    with pytest.raises(NotCached):
        bench.build(closed=True, **asked)
    made = bench.build(**asked)
    texts = bench.texts(made)
    assert all(text[0] == "^" and "^" not in text[1:] for text in texts), "BOS opens a window and stands nowhere else"
    assert "ssistant>tell" in "".join(texts[:3])
    assert "<user>aaaaaaaaa" in "".join(texts[3:])
    assert "2024-07-26" in "".join(texts), "not today's date: windows would be others every day"
    assert made.template_digest
    assert bench.build(closed=True, **asked) == made


@pytest.mark.slow
def test_what_a_template_refuses_is_the_text_s_fault(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello you"}]
    path.write_text(
        "\n".join(json.dumps({"messages": [*talk, {"role": "user", "content": str(n)}]}) for n in range(40))
    )
    with pytest.raises(
        TextError, match=r"^calibration\.source: .*refuses document 1 \('be brief'\): no system role; log: "
    ):
        bench.build(source=str(path))


@pytest.mark.slow
def test_a_model_without_a_template_is_refused_by_name_before_any_work(bench: Bench, tmp_path: Path) -> None:
    snapshot = bench.made("")
    recipe = bench.recipe(source=rows(tmp_path / "a.jsonl", "a"), chat_template=True)
    with pytest.raises(TextError, match=r"^calibration\.chat_template: .*model has no chat template; give plain text"):
        calibrate.check_all(recipe)
    with pytest.raises(TextError, match=r"^calibration\.source: .*: the model has no chat template; log: "):
        bench.build(snapshot=snapshot, source=str(tmp_path / "a.jsonl"), chat_template=True)
    templated = recipe.model_copy(update={"model": bench.made(TEMPLATE).origin.request})
    calibrate.check_all(templated)


@pytest.mark.slow
def test_a_template_in_a_gguf_header_is_found(tmp_path: Path) -> None:
    from tests.conftest import SMOLLM2

    assert not templates.lacks_template(ModelRequest(source=SMOLLM2))
    assert not templates.lacks_template(ModelRequest(source="hf://far/away"))


def test_looking_up_and_checking_files_imports_no_library_of_rows_or_templates(bench: Bench, tmp_path: Path) -> None:
    """A rerun where nothing is missing answers at once."""
    source = rows(tmp_path / "a.jsonl", "a")
    code = (
        "import sys; from pathlib import Path; from quantmill.recipe.recipe import TokenRequest\n"
        "from tasks.text import calibrate, sources as text_sources\n"
        "file = TokenRequest(source=sys.argv[1], samples=2, sequence_length=16)\n"
        "hub = TokenRequest(source='dataset://org/name', revision='0' * 40)\n"
        "list(calibrate.read_parts(file, 'calibration')), list(calibrate.read_parts(hub, 'calibration', far=False))\n"
        "[text_sources.identity(source, '', Path()) for source in (file, hub)]\n"
        "heavy = ('torch', 'transformers', 'datasets', 'huggingface_hub', 'pyarrow', 'jinja2', 'numpy', 'tokenizers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
