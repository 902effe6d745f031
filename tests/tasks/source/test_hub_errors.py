"""Errors of the hub's client and `datasets` become one line; the caller chooses the error types.

One type is for a refusal, one for a broken connection.
"""

import pytest
from httpx2 import ConnectError, Request, Response
from huggingface_hub import errors

from quantmill.errors import DownloadError, QuantmillError, TextError
from tasks import hub


def answer(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError) -> errors.HfHubHTTPError:
    return kind(
        "words with https://an.address", response=Response(status, request=Request("GET", "https://an.address"))
    )


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answer(403, errors.GatedRepoError), TextError, "gated; accept its licence on its page and set HF_TOKEN"),
        (answer(404, errors.RevisionNotFoundError), TextError, "the hub has no such branch, tag or commit of it"),
        (answer(404, errors.RepositoryNotFoundError), TextError, "no such repository, or it is private; HF_TOKEN must"),
        (answer(404, errors.RemoteEntryNotFoundError), TextError, "the hub has no such file or revision (HTTP 404)"),
        (answer(401), TextError, "the hub refuses (HTTP 401); HF_TOKEN must be a token that may read it"),
        (answer(503), DownloadError, "the hub answered HTTP 503; the same command goes on"),
        (
            ConnectError("words"),
            DownloadError,
            "does not answer, or broke off (ConnectError); the same command goes on",
        ),
        (ConnectionError("Couldn't reach"), DownloadError, "does not answer, or broke off (ConnectionError)"),
        (errors.HFValidationError("words"), TextError, "not a name that a hub allows; write it as org/name"),
    ],
)
def test_one_line(error: Exception, kind: type[QuantmillError], words: str) -> None:
    hidden = ValueError("words")
    hidden.__cause__ = error
    for raised in (error, hidden):
        told = hub.translated(raised, "org/name", TextError)
        assert type(told) is kind
        assert str(told).startswith("org/name: ")
        assert words in str(told)
        assert "address" not in str(told)
        with pytest.raises(kind), hub.one_line("org/name", TextError):
            raise raised


def test_what_no_hub_caused_is_left_to_the_caller() -> None:
    assert hub.translated(ValueError("Bad split: dev"), "org/name", TextError) is None
    with pytest.raises(DownloadError, match=r"broke off \(RuntimeError\)"), hub.one_line("org/name", TextError):
        raise RuntimeError("of the library's storage")
