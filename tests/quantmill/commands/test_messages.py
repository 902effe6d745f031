"""Errors of the system, an argument or an object store are one line that names the cause."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, EndpointConnectionError

from quantmill.commands.answers import told
from quantmill.errors import DownloadError, SettingsError, SourceError, StoreError, VerificationError
from quantmill.s3.client import connect, one_line

ROOT = Path(__file__).resolve().parents[3]


def quantmill(*arguments: str | bytes, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "quantmill", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_argument_that_is_no_text() -> None:
    done = quantmill("show", b"m\xff")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: m\\udcff: an argument that is not text")


def test_ctrl_c_during_the_first_imports(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = quantmill("list", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_a_strangers_package_of_the_same_name_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise SystemExit(99)\n")
    (tmp_path / "flows" / "cli.py").write_text("")
    done = quantmill("--version", PYTHONPATH=f"{tmp_path}:{ROOT}", PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"warning: {tmp_path}/flows/__init__.py hides the factory's package flows\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_MAX_ATTEMPTS": "many"}, "AWS_MAX_ATTEMPTS: 'many': must be a whole number of at least 1"),
        ({"AWS_MAX_ATTEMPTS": "-1"}, "AWS_MAX_ATTEMPTS: '-1': must be a whole number"),
        ({"AWS_RETRY_MODE": "odd"}, "AWS_RETRY_MODE: 'odd': allowed are"),
        ({"AWS_ENDPOINT_URL": "me:canary"}, "AWS_ENDPOINT_URL: must be an address such as https://host:port"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE: 'nobody': no such profile"),
        ({"AWS_DEFAULT_REGION": "no region"}, "AWS_DEFAULT_REGION: 'no region': not the name of a region"),
    ],
)
def test_a_wrong_variable_of_boto3_is_named(
    settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        connect()
    assert str(raised.value).startswith(words)
    assert "canary" not in str(raised.value)


def test_the_command_says_which_variable_is_wrong() -> None:
    done = quantmill("list", "--store", "s3://bucket/prefix", AWS_MAX_ATTEMPTS="many")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: AWS_MAX_ATTEMPTS: 'many'")


def test_a_server_that_does_not_answer_is_named() -> None:
    address = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "canary"}
    done = quantmill("list", "--store", "s3://bucket/prefix", **address, **keys)
    assert done.returncode == 1
    assert "the store at 127.0.0.1:9 does not answer" in done.stderr
    failed = EndpointConnectionError(endpoint_url="https://me:canary@s3.example.invalid/bucket?sig=1")
    with pytest.raises(StoreError, match=r"at s3\.example\.invalid does not"), one_line("s3://bucket/p"):
        raise failed


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("RequestTimeTooSkewed", "the clock of this machine is wrong"),
        ("AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's region"),
        ("PermanentRedirect", "set AWS_DEFAULT_REGION to the bucket's region"),
    ],
)
def test_what_a_server_refuses_for_a_wrong_setting(code: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as raised, one_line("s3://bucket/p"):
        raise ClientError({"Error": {"Code": code}}, "ListObjectsV2")
    assert "the same command goes on" not in str(raised.value)


def test_an_upload_in_parts_hides_nothing() -> None:
    refused = ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
    failed = S3UploadFailedError("Failed to upload /secret/path")
    failed.__context__ = refused
    with pytest.raises(StoreError) as raised, one_line("s3://bucket/p"):
        raise failed
    words = "the store refuses (AccessDenied); the credentials must be allowed to list, read and write"
    assert str(raised.value) == f"s3://bucket/p: {words}"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", SourceError),
        ("NoSuchKey", SourceError),
        ("NoSuchBucket", SourceError),
        ("PreconditionFailed", SourceError),
        ("PermanentRedirect", SourceError),
        ("BadDigest", VerificationError),
        ("SlowDown", DownloadError),
        ("", DownloadError),
    ],
)
def test_the_caller_says_which_error_a_refusal_is(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^x: .*{code}") as raised, one_line("x", SourceError, DownloadError, "read"):
        raise ClientError({"Error": {"Code": code}}, "GetObject")
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EACCES, "Permission denied", "/from", None, "/to"), "/to: Permission denied"),
        (OSError(errno.EACCES, "Permission denied", "/from"), "/from: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("no such luck"), "no such luck"),
    ],
)
def test_an_error_of_the_system_names_where_it_was_going(error: OSError, words: str) -> None:
    assert told(error) == words
