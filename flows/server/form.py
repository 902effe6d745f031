"""Makes the dashboard's form of a flow: it shows only the parameters that a person chooses.

Other parameters can be written as JSON; the server checks them too.
"""

import re
from typing import Any

from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

_CHOSEN = {
    "VariantRequest": ("method", "bits", "type", "group_size", "layers", "source"),
}
"""Model -> the fields that the form shows; the model has many more."""
_OURS = ("landing",)
"""Parameters that the service itself sets."""


def form_of(flow: Flow[..., Any]) -> dict[str, Any]:
    """Return the JSON schema of a flow's parameters, for the server's checks and the dashboard's form.

    The form shows `properties` and leaves out `patternProperties`; the server checks both.
    """
    schema: dict[str, Any] = parameter_schema(flow).model_dump_for_openapi()
    definitions: dict[str, Any] = schema.get("definitions", {})
    for model, chosen in _CHOSEN.items():
        if model in definitions:
            _leave_out(definitions[model], [name for name in definitions[model]["properties"] if name not in chosen])
    _leave_out(schema, [name for name in schema["properties"] if name in _OURS])
    for panel in (schema, *definitions.values()):
        for name, shape in panel.get("properties", {}).items():
            shape["title"] = _in_words(name, shape.get("title", ""))
    return schema


def _leave_out(panel: dict[str, Any], names: list[str]) -> None:
    hidden = {f"^{re.escape(name)}$": panel["properties"].pop(name) for name in names}
    panel.update({"patternProperties": hidden} if hidden else {})


def _in_words(name: str, title: str) -> str:
    """Return the title; in place of a generated title return the field's name, such as `Group size`."""
    made_up = {"", name, name.replace("_", " ").title()}
    return name.replace("_", " ").capitalize() if title in made_up else title
