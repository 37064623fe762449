"""The tables of the model file's metadata, from the JSON Schema that the tests check files with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from benchmarks._result import ROOT

SCHEMA: Final = ROOT / "docs" / "artifact.schema.json"
"""A schema of all metadata of a file: one object, each value parsed."""

_REFERENCE: Final = "#/$defs/"

Node = Mapping[str, Any]


@cache
def schema() -> Node:
    """The schema."""
    loaded: Node = json.loads(SCHEMA.read_text("utf-8"))
    return loaded


def parts() -> Sequence[str]:
    """Names of the objects whose fields have a table of their own."""
    return [name for name, node in schema()["$defs"].items() if "properties" in node]


def table(part: str | None = None) -> str:
    """Type, range and meaning of each field.

    Args:
        part: one of `parts()`; the metadata's keys if None.
    """
    node = schema() if part is None else schema()["$defs"][part]
    title = "key" if part is None else "field"
    lines = [f"| {title} | type | range | meaning |", "|---|---|---|---|"]
    for name, field in node["properties"].items():
        meaning = field.get("description") or _resolved(field)["description"]
        resolved = _resolved(field)
        if node["required"] and name not in node["required"]:  # else all may be absent
            meaning += "; may be absent"
        lines.append(f"| `{name}` | {_type(resolved)} | {_range(resolved)} | {meaning} |")
    return "\n".join(lines)


def _resolved(field: Node) -> Node:
    """A field with what it refers to; its own description comes first."""
    if "$ref" not in field:
        return field
    return {**schema()["$defs"][field["$ref"].removeprefix(_REFERENCE)], **field}


def _type(field: Node) -> str:
    if "oneOf" in field:
        return " or ".join(_type(_resolved(choice)) for choice in field["oneOf"])
    if "type" not in field:
        return f"`{json.dumps(field['const'])}`"
    kind: str = field["type"]
    if kind == "array":
        first, *rest = _type(_inner(field)).split(" ")
        return " ".join(["list of", f"{first}s", *rest])
    if kind == "object" and "additionalProperties" in field:
        return f"object of {field['additionalProperties']['type']}s"
    return kind


def _inner(field: Node) -> Node:
    """An item of a list; of one whose items have different ranges, the first."""
    return _resolved(field["items"]) if "items" in field else field["prefixItems"][0]


def _range(field: Node) -> str:
    """The values that a field may take; empty where its type says it all."""
    if "oneOf" in field:
        return "".join(_range(_resolved(choice)) for choice in field["oneOf"])
    values = field.get("enum", [])
    if "const" in field and "type" in field:
        values = [field["const"]]
    if values:
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if "pattern" in field:
        return f"`{field['pattern']}`"
    if "prefixItems" in field:
        return ""  # the meaning has one for each place
    if field.get("type") == "array":
        inner = _range(_inner(field))
        count = _limits(field.get("minItems"), field.get("maxItems"))
        return ", each ".join(filter(None, (f"{count} items" if count else "", inner)))
    if "maxLength" in field:
        return f"at most {field['maxLength']:,} characters"
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    parts = (
        f"above {above:,}" if above is not None else "",
        _limits(field.get("minimum"), field.get("maximum")),
        f"below {below:,}" if below is not None else "",
    )
    return ", ".join(filter(None, parts))


def _limits(least: float | None, most: float | None) -> str:
    if most is None:
        return f"at least {least:,}" if least is not None else ""
    if least is None:
        return f"at most {most:,}"
    return f"{least:,} to {most:,}"
