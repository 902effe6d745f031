"""`mlflow://models/name/version`: a version of a model in MLflow's registry."""

import re

from quantmill.recipe.scheme_row import Scheme, Watch


def _registered_name(source: str) -> str:
    """Return the model's name, without the version or alias after it."""
    return re.split(r"[/@]", source.removeprefix("mlflow://models/"))[0]


SCHEME = Scheme(
    name="mlflow",
    prefix="mlflow://",
    title="a version of a registered model",
    form="mlflow://models/name/version",
    rule="mlflow://models/name/version or mlflow://models/name@alias",
    example="mlflow://models/base/1",
    parse=re.compile(r"models/(?P<name>[^/@:]+)/?(?:(?<=/)(?P<version>[0-9]+)|@(?P<alias>[\w.-]+))").fullmatch,
    model_name=_registered_name,
    revision="",
    remote=True,
    third_party=False,
    on_hub=False,
    watch=Watch(form="mlflow://models/pattern", place=re.compile("models").fullmatch, settles=False),
)
