"""Fault 22: hostile chat templates reach nothing of Python; time and memory limits end them."""

import hashlib
import json
import resource
import signal
import time
from pathlib import Path

import pytest

from quantmill.errors import Killed, SourceError, TextError
from quantmill.files import keys
from quantmill.settings import Settings
from tasks.sandbox.sandbox import Sandbox
from tasks.text.job import Arguments
from tasks.tokenizer import chat as chat_templates
from tests.hostile_gguf import field, gguf, gguf_text
from tests.token_bench import Bench

TALK = [[{"role": "user", "content": "hello"}]]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GREEDY = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
REACHING = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "access to attribute '__class__' of 'str' object is unsafe",
    "{{ messages.__class__.mro() }}": "unsafe",
    "{{ self.__init__.__globals__ }}": "unsafe",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}": "unsafe",
    "{{ strftime_now.__globals__.sys }}": "unsafe",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}": "no loader",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
}


def folder(tmp_path: Path, template: str) -> Path:
    bench = Bench(tmp_path)
    bench.made(template)
    return tmp_path / "model"


@pytest.mark.parametrize("template", REACHING)
def test_fault_22_a_template_reaches_nothing(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TextError, match=f"there: the chat template refuses document 1 .*{REACHING[template]}"):
        chat_templates.render(folder(tmp_path, template), TALK, "there")
    assert not Path("CANARY").exists()


@pytest.mark.parametrize(("template", "said"), [(ENDLESS, "runs for more than 5 s"), (GREEDY, "takes more than 2 GiB")])
def test_fault_22_loops_and_gigabytes_are_ended(template: str, said: str, tmp_path: Path) -> None:
    place, began = folder(tmp_path, template), time.process_time()
    for work in (chat_templates.try_out, lambda place: chat_templates.render(place, TALK, "there")):
        with pytest.raises(SourceError, match=f"^the chat template {said}"):
            work(place)
    assert time.process_time() - began < 20
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "limits end with what they limit"
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.slow
def test_fault_22_what_python_cannot_interrupt_dies_alone(tmp_path: Path) -> None:
    place = folder(tmp_path, "{{ 9 ** (9 ** 9) }}")
    (tmp_path / "talks.json").write_text(json.dumps(TALK))
    arguments = Arguments(folder=place, conversations=tmp_path / "talks.json", where="there")
    sandbox = Sandbox(Settings(home=tmp_path / "home"))
    with pytest.raises(Killed, match="tokens was killed by SIGXCPU"), sandbox.run(arguments, "calibration"):
        pass


def test_the_digest_is_the_template_s_wherever_it_is(tmp_path: Path) -> None:
    text = "{{ messages }}"
    of_text = hashlib.sha256(text.encode()).hexdigest()
    assert chat_templates.sha256_in(tmp_path) == ""
    (tmp_path / "model.gguf").write_bytes(gguf((field("tokenizer.chat_template", 8, gguf_text(text)),)))
    assert chat_templates.sha256_in(tmp_path) == of_text
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    assert chat_templates.sha256_in(tmp_path) == of_text
    named = [{"name": "default", "template": text}, {"name": "tool_use", "template": "x"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert chat_templates.sha256_in(tmp_path) == keys.digest(named)
    (tmp_path / "chat_template.jinja").write_text(text)
    assert chat_templates.sha256_in(tmp_path) == of_text
