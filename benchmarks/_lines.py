"""How the rows of a benchmark's JSON file become the lines of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks._table import Line


def by_weights(lines: Sequence[Line]) -> Sequence[Line]:
    """One line for all precisions of a network; names of values begin with the precision."""
    joined: dict[str, dict[str, Any]] = {}
    for line in lines:
        network = joined.setdefault(line["weights"], dict(line))
        network |= {f"{line['precision']}_{name}": value for name, value in line.items()}
    return list(joined.values())


def of_first_weights(lines: Sequence[Line]) -> Sequence[Line]:
    """The rows of the first network, with each file's size over that of the first (fp32)."""
    own = [line for line in lines if line["weights"] == lines[0]["weights"]]
    return [{**line, "size_ratio": line["bytes"] / own[0]["bytes"]} for line in own]


def by_engine(lines: Sequence[Line]) -> Sequence[Line]:
    """One line for all graphs of an engine and an input: in each precision, the worst of them."""
    joined: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        key = (line["engine"], line["embedded"])
        shown = joined.setdefault(key, {"engine": key[0], "embedded": key[1]})
        worst = shown.get(line["precision"], (0, 0.0, ""))
        difference = line["max_difference"]
        rank = ("yes", "fails", "WRONG").index(line["runs"])
        text = {0: "{:.2g}", 1: "fails", 2: "**wrong: {:.2g}**"}[rank].format(difference)
        shown[line["precision"]] = max(worst, (rank, difference or 0.0, text))
    return [
        {name: value[2] if isinstance(value, tuple) else value for name, value in shown.items()}
        for shown in joined.values()
    ]


def by_core(lines: Sequence[Line]) -> Sequence[Line]:
    """The rows, with what `nin-edge run` gave, or why it ended."""
    return [
        {**line, "run": line["failure"] or "{label} {score:.1%}".format_map(line)} for line in lines
    ]


LARGE_JOB: Final = 10**8
"""Images of the plan for a large job."""


def by_number_of_cores(lines: Sequence[Line]) -> Sequence[Line]:
    """What the images of a large job take on more cores, from the steady rate of Ray's workers."""
    planned = []
    for line in lines:
        for cores in (16, 64, 256) if line["engine"] == "ray" else ():
            rate = cores * line["images_per_second"] / line["workers"]
            read = rate * line["image_bytes"] / 1e6
            hours = LARGE_JOB / rate / 3600
            planned.append({**line, "cores": cores, "hours": hours, "megabytes_per_second": read})
    return planned
