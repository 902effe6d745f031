"""`hf://org/name`: a repository of a model hub."""

import re

from quantmill.recipe.scheme_row import Scheme, Watch, last_part

SCHEME = Scheme(
    name="hf",
    prefix="hf://",
    title="a model of a hub",
    form="hf://org/name",
    rule="hf://org/name; the revision is a field",
    example="hf://HuggingFaceTB/SmolLM2-135M-Instruct",
    parse=re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII).fullmatch,
    model_name=last_part,
    revision="a branch, a tag or a commit; empty: main",
    remote=True,
    third_party=True,
    on_hub=True,
    watch=Watch(form="hf://org/pattern", place=re.compile(r"[^/]+").fullmatch, settles=False),
)
