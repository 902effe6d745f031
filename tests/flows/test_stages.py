"""Names that dashboards, alerts and stored timings depend on: the names stay when code moves."""

import ast
from pathlib import Path

import flows
from flows.needs import NEEDS
from flows.server import exporter
from flows.stages import STAGES

FLOWS = Path(flows.__file__).parent
WORDS = {
    "inspect_source": "download: inspect source",
    "inspect_checkpoints": "download: inspect checkpoints",
    "fetch_snapshot": "download: fetch snapshot",
    "build_token_sets": "calibrate: build token sets",
    "convert_snapshot": "convert: convert snapshot",
    "score_long_text": "long_text: score long text",
    "make_artifact": "quantize: make artifact",
    "measure_artifact": "evaluate: measure artifact",
    "commit_accepted": "publish: commit accepted",
    "promote": "publish: promote",
    "keep": "outbox: keep",
    "deliver": "outbox: deliver",
    "leave_report": "artifacts: leave report",
    "leave_mlflow_link": "artifacts: leave mlflow link",
}


def test_task_runs_and_timings_are_called_as_ever() -> None:
    assert {name: f"{stage}: {name.replace('_', ' ')}" for name, stage in STAGES.items()} == WORDS


def test_figures_over_time_are_called_as_ever() -> None:
    expected = {
        "download": WORDS["fetch_snapshot"],
        "calibrate": WORDS["build_token_sets"],
        "convert": WORDS["convert_snapshot"],
        "quantize": "quantize ",
        "evaluate": "evaluate ",
        "publish": WORDS["commit_accepted"],
        "register": WORDS["deliver"],
    }
    assert expected == exporter.STAGES


def test_every_function_that_runs_as_a_task_has_a_name() -> None:
    """`STAGES` has exactly the functions that flows/ gives to `stages.run` and `as_task`.

    `prepare` is given `stages.run` as `run`.
    """
    given = set()
    for path in FLOWS.rglob("*.py"):
        runs = ("run",) if path.name == "prepare.py" else ("stages.run", "as_task")
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in runs and ast.unparse(call.args[0]) != "work":
                given.add(ast.unparse(call.args[0]).rpartition(".")[2])
    given = given - {"make"} | {need.make.__name__ for need in NEEDS.values()}
    assert given == STAGES.keys()
