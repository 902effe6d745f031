"""The model's chat template: finds it, computes its digest and, inside a job, renders conversations.

A template is code written by the model's author. transformers runs it in Jinja's sandbox, which protects Python's objects
but stops no endless loop. So templates run only inside a job, with limits on time and memory. A model's template is tried
when the snapshot is made.
"""

import datetime
import hashlib
import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantmill.errors import SourceError, TextError
from quantmill.files import gguf_header, keys
from quantmill.records.artifact import Snapshot
from tasks.model.architecture import read_json

PACKAGES = ("jinja2", "tokenizers", "transformers")
FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_CPU_S = 5  # for one conversation; templates take milliseconds
_MEMORY_BYTES = 2 << 30
_TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]
_DAY = datetime.datetime(2024, 7, 26)


def digest(snapshot: Snapshot) -> str:
    """Return the digest of the files that hold the chat template and its special tokens."""
    return keys.digest({file.path: file.sha256 for file in snapshot.files if file.path in FILES})


def sha256_in(folder: Path) -> str:
    """Return the digest of the chat template that users of a folder get; empty: there is no template.

    Covers the file's bytes; for a template inside JSON or GGUF its UTF-8 text; for several named templates their
    canonical JSON.
    """
    if (path := folder / FILES[0]).is_file():
        return keys.file_sha256(path)
    held = [read_json(path).get("chat_template") for name in FILES[1:] if (path := folder / name).is_file()]
    held += [gguf_header.read_header(path).chat_template for path in sorted(folder.glob("*.gguf"))]
    found = next(filter(None, held), None)
    return hashlib.sha256(found.encode()).hexdigest() if isinstance(found, str) else keys.digest(found) if found else ""


def render(folder: Path, conversations: list[list[dict[str, str]]], where: str) -> list[str]:
    """Return each conversation rendered by the chat template, without a generation prompt. Only in a job.

    If the tokenizer puts a BOS token before every text, a BOS token at the beginning of a rendered text is removed, because
    `cut_windows` adds it. Templates that print the date print 26 July 2024, or the windows would change every day.

    Raises:
        TextError: the model has no template, or the template refuses a conversation.
        SourceError: the template takes more time or memory than any template needs.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    chat_template_utils.datetime = _Clock
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise TextError(f"{where}: the model has no chat template")
    bare, dressed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    opens = bool(tokenizer.bos_token) and dressed[:1] == [tokenizer.bos_token_id] != bare[:1]
    rendered = []
    for number, messages in enumerate(conversations, start=1):
        try:
            with limits():
                text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
        except (TemplateError, ValueError, TypeError, RecursionError) as error:
            words = " ".join(str(error).split())[:200]
            shown = messages[0]["content"][:40] if messages else ""
            raise TextError(f"{where}: the chat template refuses document {number} ({shown!r}): {words}") from error
        rendered.append(text.removeprefix(str(tokenizer.bos_token)) if opens else text)
    return rendered


def try_out(folder: Path) -> None:
    """Render a short conversation, to reject a template that exceeds the limits. Only in a job.

    Raises:
        SourceError: the template takes more time or memory than any template needs.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    if not sha256_in(folder):
        return
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with limits(), suppress(TemplateError, ValueError, TypeError):  # a refusal is reported when the template is needed
        tokenizer.apply_chat_template(_TALK, tokenize=False, add_generation_prompt=True)


@contextmanager
def limits() -> Iterator[None]:
    """Limit the processor time and memory of the rendering in this context. Only in a job.

    If Python cannot interrupt a calculation (9 ** (9 ** 9)), the kernel kills the job's process.

    Raises:
        SourceError: the rendering exceeded a limit.
    """

    def stop(*_: object) -> None:
        raise SourceError(f"the chat template runs for more than {_CPU_S} s and was stopped")

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}
    handler = signal.signal(signal.SIGPROF, stop)
    try:
        _lower(resource.RLIMIT_CPU, math.ceil(used) + 2 * _CPU_S)
        _lower(resource.RLIMIT_AS, held + _MEMORY_BYTES)
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        yield
    except MemoryError as error:
        raise SourceError(
            f"the chat template takes more than {_MEMORY_BYTES >> 30} GiB of memory and was stopped"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        for kind, limit in before.items():
            resource.setrlimit(kind, limit)


def _lower(kind: int, limit: int) -> None:
    """Lower a soft limit to `limit`; a lower limit stays."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))


class _Clock:
    """Replaces `datetime` in the template's functions, to return a fixed date."""

    @staticmethod
    def now(*_: Any) -> datetime.datetime:
        return _DAY
