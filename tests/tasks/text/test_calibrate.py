"""Token sets: disjoint sides, drawn by the seed, and too little text refused with numbers."""

import hashlib
from pathlib import Path

import pytest

from quantmill.errors import TextError
from quantmill.files import keys
from quantmill.recipe.recipe import TokenRequest
from tasks.builtin_text import builtin_text
from tasks.text import sources as text_sources
from tasks.text.calibrate import cut_windows, read_parts
from tasks.text.sources import Role

ROLES: tuple[Role, ...] = ("calibration", "evaluation")
BUILTIN = TokenRequest(samples=8, sequence_length=256)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level tokenizer without special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def side(role: Role, request: TokenRequest = BUILTIN) -> str:
    """The text of one side, as it is tokenized."""
    (part,) = read_parts(request, role)
    return part.text


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_sides_share_no_paragraph_and_hold_the_whole_text() -> None:
    text = builtin_text()
    one, other = ({words(part) for part in side(role).split("\n\n")} for role in ROLES)
    assert not one & other
    assert {words(part) for part in text.split("\n\n") if 0 < len(part) < 1000} <= one | other
    assert 0.3 < sum(map(len, one)) / sum(map(len, one | other)) < 0.7


def test_sets_share_no_window_whatever_the_seeds(tokenizer: Path) -> None:
    one, other = side("calibration"), side("evaluation")
    for seed in range(3):
        request = BUILTIN.model_copy(update={"seed": seed, "samples": 100})
        seen = {tuple(w) for w in cut_windows(one, tokenizer, request, "calibration")}
        measured = {tuple(w) for w in cut_windows(other, tokenizer, request, "evaluation")}
        assert not seen & measured
        assert len(seen) == len(measured) == 100
        assert {len(window) for window in seen} == {256}


def test_the_seed_draws(tokenizer: Path) -> None:
    text = side("calibration")
    first, again, other = (
        cut_windows(text, tokenizer, BUILTIN.model_copy(update={"seed": seed}), "calibration") for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_every_window_opens_with_bos_where_the_tokenizer_says_so(tokenizer: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_file(str(tokenizer))
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", made.token_to_id("<s>")), ("</s>", made.token_to_id("</s>"))]
    )
    made.save(str(tmp_path / "t.json"))
    windows = cut_windows(side("calibration"), tmp_path / "t.json", BUILTIN, "calibration")
    assert {window[0] for window in windows} == {made.token_to_id("<s>")}
    assert {len(window) for window in windows} == {256}
    assert made.token_to_id("</s>") not in {token for window in windows for token in window}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"calibration\.source: .*: holds no text on the calibration side; at least 2048 tokens"),
        (b" \n\t\n", r"holds no text"),
        (b"a few words", r"\d+ bytes on the calibration side hold fewer than the 2048 tokens"),
        (b"abc\xff" + b"x" * 9000, r"not UTF-8 \(byte 3\)"),
        (None, r"no such file"),
    ],
)
def test_a_text_that_cannot_do_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=message):
        side("calibration", BUILTIN.model_copy(update={"source": str(path)}))


def test_a_text_that_repeats_itself_is_too_little(tokenizer: Path) -> None:
    with pytest.raises(TextError, match=r"samples: .* 1 different windows of 256 tokens, 8 are asked for"):
        cut_windows("fifteen letters\n" * 5000, tokenizer, BUILTIN, "calibration")


def test_the_side_of_a_paragraph_is_its_digest() -> None:
    section = "x" * 1999
    wanted = "calibration" if hashlib.sha256(section.encode()).digest()[0] % 2 == 0 else "evaluation"
    assert text_sources.side_of_words(section) == wanted
    assert [found.text for found in text_sources.paragraphs([section])] == [section]


@pytest.mark.parametrize(
    ("role", "digest"),
    [
        ("calibration", "7e302294943e2eaabefd52a4c8a103951c8bdc632c6429279d069a08dea4662f"),
        ("evaluation", "bc32c49db172c4ae6a68814b03595e039c36912f1077a4816e56449e52e37b43"),
    ],
)
def test_the_built_in_text_cuts_as_it_always_did(role: Role, digest: str, tokenizer: Path) -> None:
    """The windows are in the keys of artifacts and reports: a change would measure everything again."""
    windows = cut_windows(side(role), tokenizer, BUILTIN, role)
    assert keys.digest(windows) == digest
