"""A plain path: a Hugging Face folder or a GGUF file on this machine."""

from quantmill.recipe.scheme_row import Scheme, Watch, last_part

SCHEME = Scheme(
    name="folder",
    prefix="",
    title="on this machine",
    form="a folder or a .gguf file",
    rule="the path of a folder or of a .gguf file",
    example="./model",
    parse=str,
    model_name=last_part,
    revision="",
    remote=False,
    third_party=False,
    on_hub=False,
    watch=Watch(form="folder/pattern", place=str, settles=True),
)
