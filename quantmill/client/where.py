"""Where-expressions: a consumer's conditions, such as `format=gguf,size<120MB,kl<0.1,memory<=12GB`.

Commas separate the terms, which must all hold. A term is a field, one of `= != < <= > >=`, and a value: a word for `name`,
`method`, `format`, `runtime` and `mark` (`=` and `!=` only), a number for the others, with a unit for `size` and `memory`.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from quantmill.errors import RequestError
from quantmill.recipe.methods import PROGRAMS
from quantmill.records.selection import MARKS, Candidate

MAX_LENGTH = 2000
UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
WORDS = ("name", "method", "format", "runtime", "mark")
BYTES = {"size": "size_bytes", "memory": "peak_memory_bytes"}
NUMBERS = {
    "bits": "bits",
    "bits_per_weight": "bits_per_weight",
    "kl": "mean_kl",
    "p99_kl": "p99_kl",
    "top1": "top1_agreement",
    "perplexity": "perplexity",
    "perplexity_ratio": "perplexity_ratio",
    "tokens_per_s": "decode_tokens_per_s",
}
FIELDS = (*WORDS, *NUMBERS, *BYTES)

_UNIT_OF = {unit.lower(): factor for unit, factor in UNITS.items()}
_TERM = re.compile(r"([a-z0-9_]+)\s*(<=|>=|!=|=|<|>)\s*([^<>=!]+)")
_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?)\s*([A-Za-z]{0,3})")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Term(NamedTuple):
    """One condition."""

    text: str
    """The term as the user wrote it."""
    field: str
    compare: str
    value: str | float

    def holds(self, candidate: Candidate) -> bool:
        """Return whether the candidate meets the term; a figure that was not recorded meets no term."""
        if self.field == "runtime":
            return (self.value in candidate.runtimes) == (self.compare == "=")
        if self.field == "mark":
            return any(str(self.value) in mark for mark in candidate.marks) == (self.compare == "=")
        found = self.of(candidate)
        return found is not None and COMPARISONS[self.compare](found, self.value)

    def of(self, candidate: Candidate) -> Any:
        """Return the candidate's value of the term's field."""
        if self.field == "runtime":
            return ", ".join(candidate.runtimes)
        if self.field == "mark":
            return ", ".join(candidate.marks) or "none"
        return getattr(candidate, (NUMBERS | BYTES).get(self.field, self.field))

    def told(self, candidate: Candidate) -> str:
        """Return the candidate's value of the term's field in words."""
        found = self.of(candidate)
        if found is None:
            return f"{self.field} is not recorded"
        shown = (
            f"{found / 1e6:.1f} MB" if self.field in BYTES else f"{found:.4g}" if isinstance(found, float) else found
        )
        return f"{self.field} is {shown}"


def parse(expression: str) -> tuple[Term, ...]:
    """Return the terms of an expression; an empty expression has none.

    Raises:
        RequestError: a field is unknown, a value does not fit its field, or a term is malformed; the message names it.
    """
    if len(expression) > MAX_LENGTH:
        raise RequestError(f"--where: {len(expression)} characters; at most {MAX_LENGTH}")
    return tuple(_term(part.strip()) for part in expression.split(",")) if expression.strip() else ()


def asked_program(expression: str) -> str:
    """Return the program of an expression's last `runtime=` term; empty: there is none."""
    return next((str(t.value) for t in reversed(parse(expression)) if (t.field, t.compare) == ("runtime", "=")), "")


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if not found:
        raise RequestError(
            f"--where: {text!r}: write FIELD, one of {' '.join(COMPARISONS)}, and a value; fields: {', '.join(FIELDS)}"
        )
    field, compare, value = found[1], found[2], found[3].strip()
    if field not in FIELDS:
        raise RequestError(f"--where: {field}: no such field; fields: {', '.join(FIELDS)}")
    if field in WORDS:
        return Term(text, field, compare, _word(field, compare, value))
    return Term(text, field, compare, _number(field, value))


def _word(field: str, compare: str, value: str) -> str:
    if compare not in ("=", "!="):
        raise RequestError(f"--where: {field}{compare}{value!r}: {field} takes = and != only")
    if field == "runtime":
        value = value.lower().replace("_", ".")
        if value not in PROGRAMS:
            raise RequestError(f"--where: runtime: {value!r}: allowed are {', '.join(PROGRAMS)}")
    if field == "mark" and value not in MARKS:
        raise RequestError(f"--where: mark: {value!r}: allowed are {', '.join(MARKS)}")
    return value


def _number(field: str, value: str) -> float:
    found = _NUMBER.fullmatch(value)
    number, unit = (float(found[1]), found[2].lower()) if found else (math.inf, "")
    if math.isinf(number * _UNIT_OF.get(unit, 1)) or (unit and field not in BYTES) or unit not in _UNIT_OF:
        what = f"a number with {', '.join(filter(None, UNITS))} or no unit" if field in BYTES else "a number"
        raise RequestError(f"--where: {field}: {value!r}: must be {what}")
    return number * _UNIT_OF[unit]
