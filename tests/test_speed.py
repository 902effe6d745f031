"""Speed within a budget, by a clock that the test turns; a run on a busy machine, through the command."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers import Tokenizer, models

from quantmill.report import Speed, Timing
from quantmill.selection import BUSY
from tasks import gate, speed
from tasks.runtimes.protocol import Machine
from tests.line import Line
from tests.samples import outcome
from tests.test_busy import Told


class Slow:
    """A runtime's module and its model in one: each token takes its time on the clock, and others work beside it."""

    compute_dtype, kernel = "float32", "made up"

    def __init__(self, readings: Told, token_s: float, read_s: float = 0.0, others: float = 0.0) -> None:
        self.readings, self.token_s, self.read_s, self.others, self.made = readings, token_s, read_s, others, 0

    def load(self, *_: Any, **__: Any) -> "Slow":
        self._work(1000.0)
        return self

    def start(self, ids: Any) -> int:
        self._work(self.read_s * len(ids))
        return self.step(0)

    def step(self, _: int) -> int:
        self._work(self.token_s)
        self.made += 1
        return self.made % 50

    def text(self, tokens: list[int]) -> str:
        return str(tokens)

    def close(self) -> None:
        return

    def _work(self, seconds: float) -> None:
        self.readings.now += seconds
        self.readings.own += seconds
        self.readings.others += seconds * self.others


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = {"x": 0, "[UNK]": 1}
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def measured(folder: Path, model: Slow) -> tuple[Speed, Timing]:
    windows, machine = numpy.zeros((1, 64), numpy.int32), Machine("cpu", 2, "a processor")
    made = speed.measure_speed(model, folder, windows, machine, 200, lambda *_: None, model.readings)
    return Speed.model_validate(made["speed"]), Timing.model_validate(made["timing"])


@pytest.mark.parametrize(
    ("token_s", "read_s", "tokens", "repeats"),
    [
        (0.003, 0.0, 32, 4),
        (0.1, 0.001, 32, 3),
        (0.4, 0.0, 31, 1),
        (1.0, 0.0, 11, 1),
        (1.0, 0.5, 2, 1),
        (30.0, 0.0, 2, 1),
    ],
)
def test_as_many_tokens_as_fit(folder: Path, token_s: float, read_s: float, tokens: int, repeats: int) -> None:
    made, timing = measured(folder, Slow(Told(), token_s, read_s))
    assert made.decode_tokens_per_s == pytest.approx(1 / token_s)
    assert (abs(made.generated_tokens - tokens) <= 4, made.repeats) == (True, repeats)
    assert made.load_s == pytest.approx(1000)
    if token_s < 10:
        assert timing.took_s <= timing.budget_s + token_s + read_s * 12, "one token too late at most"
    assert timing.decode_range == (pytest.approx(1 / token_s),) * 2


@pytest.mark.parametrize(("others", "busy"), [(0.0, False), (0.09, False), (0.11, True)])
def test_work_beside_the_measurement_is_seen(folder: Path, others: float, busy: bool) -> None:
    _, timing = measured(folder, Slow(Told(), 0.1, others=others))
    assert timing.busy is busy, "of two cores' wall time"
    assert timing.others == pytest.approx(others / 2, abs=0.01)


def test_a_short_sample_that_repeats_one_token_is_not_gibberish() -> None:
    from quantmill.recipe import GatePolicy

    base, policy = outcome("baseline", size=1000, perplexity=16.0), GatePolicy(max_perplexity_ratio=2, max_mean_kl=1)
    for tokens, status in ((16, "rejected"), (15, "accepted")):
        made = outcome("v", distinct=1)
        assert made.report is not None
        short = made.report.speed.model_copy(update={"generated_tokens": tokens})
        report = made.report.model_copy(update={"speed": short})
        assert gate.decide(made.model_copy(update={"report": report}), base, policy).status == status
        assert gate.too_short(report) is (tokens < 16)


def test_busy_is_a_mark_that_where_knows() -> None:
    from quantmill.where import parse

    assert [term.value for term in parse("mark!=busy")] == [BUSY]


@contextmanager
def neighbours() -> Iterator[None]:
    """Other processes that keep two cores at work."""
    spinning = "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", spinning]) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights: nothing here depends on what it says."""
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("random")
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_busy_machine_s_speed_is_no_pick_until_it_is_measured_again(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "model": {"source": str(random_model)},
        "calibration": {"samples": 4, "sequence_length": 128},
        "evaluation": {"samples": 4, "sequence_length": 128, "seed": 1},
        "variants": [{"method": "bitsandbytes", "type": ["int8"]}],
        "gates": {"max_perplexity_ratio": 2, "max_mean_kl": 1, "max_size_ratio": 2},
        "publish": {"model": "random", "channel": "stable"},
    }
    line = Line(tmp_path / "line", tmp_path / "home", recipe)
    monkeypatch.setenv("QUANTMILL_BUSY_SHARE", "0.05")
    with neighbours():
        _, made, jobs = line.run()
    (row,) = made["variants"]
    assert (row["status"], BUSY in row["marks"]) == ("accepted", True)
    assert row["others"] > 0.05
    assert set(made["picks"]) == {"quality", "size"}
    assert {job for job in jobs if job.startswith(("report", "speed"))} == {"report baseline", f"report {row['name']}"}

    monkeypatch.setenv("QUANTMILL_BUSY_SHARE", "1")  # from here on this machine counts as quiet
    _, again, jobs = line.run()
    assert (jobs, again["picks"]) == ([], made["picks"]), "nothing is missing"

    process = line.start("--measure-again", "--json", str(tmp_path / "summary.json"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert line.started() == ["speed baseline", f"speed {row['name']}"], "nothing is made or scored again"
    _, quiet, jobs = line.run()
    assert jobs == []
    (found,) = quiet["variants"]
    assert BUSY not in found["marks"]
    assert quiet["picks"]["speed"] == row["name"]
    assert found["mean_kl"] == row["mean_kl"]
    assert found["decode_range"][0] <= found["decode_tokens_per_s"] <= found["decode_range"][1]
