"""Makes the text on which two tokenizers are compared: about 200 kB on which tokenizers often differ.

The text consists of Python's own documentation and sources, computed numbers, and a page of scripts. The same Python
version gives the same text.
"""

import importlib
import inspect
from collections.abc import Iterator, Sequence

_PROSE_CHARS = 75_000
_CODE_CHARS = 70_000
_NUMBER_CHARS = 30_000
_UNICODE_CHARS = 16_000
_CODE_MODULES = ("textwrap", "json.decoder", "fractions", "string", "dataclasses", "csv")

# Scripts, combining marks, joined emoji, digits other than 0-9, odd blanks, invisible characters.
_UNICODE = (
    "Größe, Ärger, naïve façade, ﬁancé, İstanbul, ẞ. Нещо на български и по-русски 2024 год. Ελληνικά.\n"
    "中文:我想在apple工作1314151天。日本語のテキスト、カタカナと漢字。한국어 문장입니다. "
    "ไทยไม่มีช่องว่าง កាន់តែពិសេស\n"
    "עברית: שלום עולם 123. العربية: مرحبا بالعالم ١٢٣٤٥. فارسی می‌خواهم ۶۷۸. "
    "हिन्दी: नमस्ते दुनिया १२३. বাংলা தமிழ் ქართული Հայերեն አማርኛ\n"
    "e\u0301 vs é, a\u0308\u0323o\u0302\u0301, Z\u0351\u036b\u0343algo, n\u0303, \u0915\u094d\u0937. "
    "🚀 (normal) 😶\u200d🌫️ 👩🏽\u200d🚀👨\u200d👩\u200d👧\u200d👦 🇩🇪🇯🇵 ✅🦙🦙 ❤️ 1️⃣\n"
    "½ ¼ ²³ x² Ⅻ ⅷ ① ㊿ ൧ ٣ 𝟘𝟙 𝐀𝐁 №5 5€ £7 ¥8 ₿9 ±3 ×4 ÷ √2 ∑∫ ≤≥ →⇒ «a» “b” ‘c’ …—– §¶\n"  # noqa: RUF001
    "a\u00a0b\u2003c\u3000d\u2009e\u202ff\u200bg\u200ch\u200di\ufeffj\u00adk\u2060l\u180em "
    "\u200e\u200f\u202aLTR\u202c\u2028\u2029\u0085end\n"
)
_BLANKS = (
    " one  two   three    four\t\tfive \t six\n\n\nseven\r\neight\r\r\n"
    "  nine   \n   \n\t\n    ten\n \n \n        \n"
    + " " * 33
    + "x"
    + "\t" * 9
    + "y"
    + "\n" * 17
    + "z \n  \n   \n    \n"
    + " \t" * 8
    + "\v\f end   \n     "
)


def probe_text(special_tokens: Sequence[str] = ()) -> str:
    """Return prose, code, numbers, scripts, runs of blanks, and each special token between other text."""
    from pydoc_data import topics

    prose = "\n".join(topics.topics[key] for key in sorted(topics.topics))[:_PROSE_CHARS]
    code = "\n".join(inspect.getsource(importlib.import_module(name)) for name in _CODE_MODULES)[:_CODE_CHARS]
    special = "".join(f"before {token}after{token}{token}\n {token} 1{token}2\n" for token in special_tokens)
    scripts = _UNICODE * (_UNICODE_CHARS // len(_UNICODE))
    return prose + special + scripts + _BLANKS * 8 + "".join(_numbers()) + code + special


def _numbers() -> Iterator[str]:
    """Yield lines of runs, decimals, dates, times, versions and digits at letters, until there are enough."""
    length = 0
    step = 0
    while length < _NUMBER_CHARS:
        step += 1
        digits = str(7**step)[-40:]
        line = (
            f"{digits[: step % 19 + 1]} {step:03d}.{digits[-3:]} -{digits[:2]},{digits[-3:]} "
            f"20{step % 100:02d}-1{step % 3}-0{step % 9} {step % 24}:{step % 60:02d} "
            f"x{step}y{digits[-2:]} {step}th v{step % 7}.{step % 11}.0 0x{step * 7919:x} "
            f"1e-{step} ${step}.99\n"
        )
        length += len(line)
        yield line
