"""The main job on real input: SmolLM2-135M through the whole line, in the command line's own process.

The tests of this module follow each other on one home, as a person's commands would.
"""

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from quantmill.files.entries import FileEntry
from quantmill.store.places import open_store
from tests.conftest import SMOLLM2
from tests.line import Line, processes_of

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "model": {"source": SMOLLM2},
    "calibration": {"samples": 3, "sequence_length": 128},
    "evaluation": {"samples": 4, "sequence_length": 160, "seed": 1},
    "variants": [
        {"method": "bitsandbytes", "bits": 4},
        {"method": "gptq", "bits": 4, "group_size": 64},
        {"method": "gguf", "type": ["Q8_0", "Q4_1", "Q2_K"]},
    ],
    "gates": {"max_mean_kl": 0.1},
    "publish": {"model": "smollm2"},
}


@pytest.fixture(scope="module")
def line(smollm2_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A home of its own, with links to the model's blobs: its path tells the run's processes from others."""
    folder = tmp_path_factory.mktemp("line")
    shutil.copytree(smollm2_home, folder / "home", copy_function=os.link)
    return Line(folder / "started", folder / "home", RECIPE)


@pytest.fixture(scope="module")
def first(line: Line) -> dict[str, Any]:
    """The first run, in which the job of one variant is killed as an out-of-memory killer would."""
    process = line.start("--json", str(line.starts.parent / "summary.json"))
    os.kill(line.wait_for("artifact gguf-q2_k", timeout_s=800), signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-5000:]
    assert "layer 30 of 30" in output, "progress from inside the engine reaches the person"
    assert not processes_of(line.home), "nothing is left running"
    return dict(json.loads((line.starts.parent / "summary.json").read_text()))


def rows(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in summary["variants"]}


def test_a_killed_job_fails_alone(first: dict[str, Any], line: Line) -> None:
    made = rows(first)
    assert list(made) == ["bitsandbytes-nf4", "gptq-4bit-g64", "gguf-q8_0", "gguf-q4_1", "gguf-q2_k"]
    assert made["gguf-q2_k"]["status"] == "failed"
    assert made["gguf-q2_k"]["reasons"][0].startswith("Killed: artifact was killed by SIGKILL")
    assert {name: row["status"] for name, row in made.items() if name != "gguf-q2_k"} == {
        "bitsandbytes-nf4": "rejected",
        "gptq-4bit-g64": "rejected",
        "gguf-q8_0": "accepted",
        "gguf-q4_1": "accepted",
    }
    assert {name for name, row in made.items() if row["manifest"]} == {"gguf-q8_0", "gguf-q4_1"}


def test_figures_are_sound(first: dict[str, Any]) -> None:
    base, made = first["baseline"], rows(first)
    assert base["compute_dtype"] == "float32"
    assert 10 < base["perplexity"] < 25
    assert base["bits_per_weight"] == pytest.approx(16, rel=0.01)
    for name, row in made.items():
        if row["status"] != "failed":
            assert row["perplexity_ratio"] == pytest.approx(row["perplexity"] / base["perplexity"])
            assert row["size_bytes"] < base["size_bytes"], name
            assert 0 < row["mean_kl"] < row["p99_kl"]
            assert row["decode_tokens_per_s"] > 0
            assert row["peak_memory_bytes"] > 50e6
    assert made["gguf-q8_0"]["mean_kl"] < made["gptq-4bit-g64"]["mean_kl"] < made["bitsandbytes-nf4"]["mean_kl"]


def test_a_variant_on_the_source_s_own_grid_is_marked_and_never_picked(first: dict[str, Any]) -> None:
    assert rows(first)["gguf-q4_1"]["marks"] == ["source-grid"]
    assert first["pareto"] == ["gguf-q8_0"]
    assert set(first["picks"].values()) == {"gguf-q8_0"}


def test_two_runtimes_agree_on_the_same_weights(first: dict[str, Any], line: Line) -> None:
    """fp32 arithmetic in transformers against an F32 GGUF in llama.cpp, on the same ids."""
    assert first["noise_floor"]["llama_cpp"] < 1e-5
    assert first["noise_floor"]["transformers"] < 1e-5
    found = [json.loads(path.read_text())["value"] for path in line.home.glob("store/stages/report/*.json")]
    perplexity = {report["name"]: report["quality"]["perplexity"] for report in found}
    assert perplexity["gguf-f32"] == pytest.approx(perplexity["baseline-bf16"], rel=1e-4)


def test_a_rerun_makes_what_is_missing_and_nothing_else(first: dict[str, Any], line: Line) -> None:
    code, summary, started = line.run()
    assert (code, started) == (0, ["artifact gguf-q2_k", "report gguf-q2_k"])
    made = rows(summary)
    assert made["gguf-q2_k"]["status"] == "rejected"
    assert any("fallback" in mark for mark in made["gguf-q2_k"]["marks"]), "576 is no multiple of 256"
    assert [name for name, row in made.items() if not row["cached"]] == ["gguf-q2_k"]


def test_where_nothing_is_missing_it_answers_from_the_store(first: dict[str, Any], line: Line) -> None:
    database = (line.home / "prefect" / "prefect.db").stat().st_mtime_ns
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, summary, started = line.run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert work < 5, "seconds of processor time: a neighbour on the machine is no fault of ours"
    assert (code, started) == (0, [])
    assert all(row["cached"] for row in summary["variants"])
    assert json.loads((line.home / "reports" / "smollm2" / "summary.json").read_text())["model"] == "smollm2"
    assert (line.home / "prefect" / "prefect.db").stat().st_mtime_ns == database, "Prefect was not started"


def test_deleting_a_weights_blob_remakes_exactly_that_variant(first: dict[str, Any], line: Line) -> None:
    store = open_store(line.home / "store")
    manifest = store.manifest(rows(first)["gguf-q8_0"]["manifest"])
    weights = next(file for file in manifest.files if file.path.endswith(".gguf"))
    blob = line.home / "store" / "blobs" / "sha256" / weights.sha256[:2] / weights.sha256
    blob.unlink()
    code, summary, started = line.run()
    assert (code, started) == (0, ["artifact gguf-q8_0"]), "its measurement still holds: the same bytes came out"
    assert rows(summary)["gguf-q8_0"]["manifest"] == manifest.digest
    assert blob.exists()


def test_another_calibration_text_remakes_only_what_it_calibrates(line: Line, tmp_path: Path) -> None:
    from flows import jobs
    from quantmill.recipe.recipe_file import parse_recipe
    from quantmill.settings import Settings
    from tasks.sandbox.sandbox import Sandbox
    from tasks.source import download
    from tasks.text import calibrate

    settings = Settings(home=line.home)
    store, sandbox = open_store(settings.store_uri), Sandbox(settings)
    other = tmp_path / "text.txt"
    other.write_text("\n\n".join(f"Paragraph {n} of another text says {n * n}." for n in range(2000)))

    def keys(source: str) -> dict[str, tuple[str, str]]:
        recipe = parse_recipe(RECIPE | {"calibration": RECIPE["calibration"] | {"source": source}})
        snapshot = download.fetch_snapshot(download.inspect_source(recipe.model, line.home), store, sandbox)
        tokens = calibrate.build_token_sets(recipe, snapshot, store, sandbox, True)
        plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, {})
        return {job.name: (job.artifact_key, job.report_key) for job in plan.variants}

    before, after = keys("builtin"), keys(str(other))
    assert [name for name in before if before[name] != after[name]] == ["gptq-4bit-g64"]


def publish_folder(line: Line, variant: str, to: Path) -> tuple[Path, tuple[FileEntry, ...]]:
    store = open_store(line.home / "store")
    manifest = store.manifest(store.versions("smollm2", variant)[-1].manifest)
    store.fetch(manifest.files, to / variant)
    return to / variant, manifest.files


def test_a_published_gguf_loads_in_llama_cpp_and_generates(first: dict[str, Any], line: Line, tmp_path: Path) -> None:
    import llama_cpp

    folder, files = publish_folder(line, "gguf-q8_0", tmp_path)
    assert {file.path for file in files} >= {"model-Q8_0.gguf", "config.json", "tokenizer.json", "chat_template.jinja"}
    model = llama_cpp.Llama(str(folder / "model-Q8_0.gguf"), n_ctx=128, verbose=False)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = model.create_chat_completion(messages, max_tokens=24, temperature=0)  # type: ignore[arg-type]
    assert "Paris" in answer["choices"][0]["message"]["content"]  # type: ignore[index]


def test_rejected_artifacts_load_in_transformers_and_generate(
    first: dict[str, Any], line: Line, tmp_path: Path
) -> None:
    """Complete folders, whatever the gate said: opened as a consumer does, with nothing of ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store = open_store(line.home / "store")
    for path in line.home.glob("store/stages/artifact/*.json"):
        artifact = json.loads(path.read_text())["value"]
        if artifact["spec"]["method"] not in ("bitsandbytes", "gptq"):
            continue
        folder = tmp_path / artifact["spec"]["method"]
        store.fetch(tuple(FileEntry.model_validate(file) for file in artifact["files"]), folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu")
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is the capital of France?"}], tokenize=False
        )
        ids = tokenizer(text + "<|im_start|>assistant\n", return_tensors="pt").input_ids
        out = tokenizer.decode(model.generate(ids, max_new_tokens=20, do_sample=False)[0][ids.shape[1] :])
        assert "Paris" in out, artifact["spec"]
    assert len(list(tmp_path.iterdir())) == 2


def test_mlflow_holds_runs_and_versions(first: dict[str, Any], line: Line) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{line.home / 'mlflow' / 'mlflow.db'}")
    parent = client.get_run(first["mlflow_run"])
    children = client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    made = rows(first)
    assert {child.info.run_name: child.info.status for child in children} == {
        name: "FAILED" if row["status"] == "failed" else "FINISHED" for name, row in made.items()
    }
    nf4 = next(child for child in children if child.info.run_name == "bitsandbytes-nf4")
    assert nf4.data.metrics["mean_kl"] == pytest.approx(made["bitsandbytes-nf4"]["mean_kl"])
    files = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert files >= {"pareto.png", "report.html", "summary.json"}
    versions = client.search_model_versions("name = 'smollm2'")
    assert {version.source for version in versions} >= {
        f"quantmill://smollm2/{name}@{made[name]['manifest']}" for name in ("gguf-q8_0", "gguf-q4_1")
    }
    assert (
        client.get_model_version_by_alias("smollm2", "best-quality").tags["quantmill.manifest"]
        == made["gguf-q8_0"]["manifest"]
    )


def test_prefect_holds_the_run_and_its_artifacts(first: dict[str, Any], line: Line) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server.embedded import prefect_api

    # The suite's own server may be running: this asks the one that the run left its records with.
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        prefect_api(line.home),
        get_client(sync_client=True) as client,
    ):
        runs = sorted(client.read_flow_runs(), key=lambda run: run.start_time)  # type: ignore[arg-type,return-value]
        compress = runs[0]
        assert compress.name == "smollm2"
        assert {"quantmill", "smollm2"} <= set(compress.tags)
        assert {"quantmill", "gptq", "safetensors"} <= set(next(r for r in runs if r.name == "gptq-4bit-g64").tags)
        assert {run.name for run in runs} >= {"baseline-bf16", "gguf-f32", *rows(first)}
        assert next(run for run in runs if run.name == "gguf-q2_k").state_name == "Killed"
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[compress.id]))
        kept = {
            artifact.key: artifact.type for artifact in client.read_artifacts(artifact_filter=chosen) if artifact.key
        }
        assert kept == {
            "variants-smollm2": "table",
            "pareto-smollm2": "image",
            "report-smollm2": "markdown",
            "store-smollm2": "markdown",
        }


def test_the_disk_held_what_was_planned(first: dict[str, Any], line: Line) -> None:
    from quantmill.recipe.recipe_file import parse_recipe
    from quantmill.records.planning import disk_bytes
    from tasks.source import download

    recipe = parse_recipe(RECIPE)
    planned = disk_bytes(download.inspect_source(recipe.model, line.home), recipe.expand())
    states = {(state.st_dev, state.st_ino): state.st_size for path in line.home.rglob("*") if (state := path.stat())}
    assert 0.4 * planned < sum(states.values()) < planned


def test_list_and_show(first: dict[str, Any], line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from quantmill.cli import app

    monkeypatch.setenv("QUANTMILL_HOME", str(line.home))
    listed = json.loads(CliRunner().invoke(app, ["list", "--json", "-"]).output)
    assert [(m["model"], [v["name"] for v in m["variants"]]) for m in listed["models"]] == [
        ("smollm2", ["gguf-q4_1", "gguf-q8_0"])
    ]
    assert "gguf-q8_0" in CliRunner().invoke(app, ["show", "smollm2"]).output
