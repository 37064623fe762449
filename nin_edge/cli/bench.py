"""`nin-edge bench`: latency, load time and memory of models on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nin_edge.cli._common import PATH, NumberRange, printable, provider_option

if TYPE_CHECKING:
    from nin_edge_runtime.bench import Bench


@click.command("bench")
@click.argument("models", type=PATH, nargs=-1, metavar="[MODEL]...")
@provider_option
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads of one inference on the CPU; all usable ones if not given.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 4096),
    multiple=True,
    help="Images per call, besides 1; repeatable; 8 and 64 if not given.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 1_000_000), help="Rounds to time, instead of --seconds."
)
@click.option(
    "--seconds",
    type=NumberRange(0.1, 86_400),
    help="Time for each model; 10 if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    models: tuple[Path, ...],
    provider: str,
    threads: int | None,
    batches: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Measure latency, load time and memory of each MODEL here.

    Without MODEL, the default model is measured. Several models are measured in interleaved
    rounds, and compared with the first. Their inputs are arrays of the network's own size: nothing
    is decoded or resized.
    """
    if rounds is not None and seconds is not None:
        raise click.UsageError("--rounds and --seconds exclude each other")
    from nin_edge.cli._data import show_progress
    from nin_edge_runtime import DEFAULT_MODEL
    from nin_edge_runtime.bench import SECONDS, measure

    bench = measure(
        models or (DEFAULT_MODEL,),
        provider=provider,
        threads=threads,
        batches=batches or None,
        rounds=rounds,
        seconds=seconds or SECONDS,
        progress=lambda step, done, total: show_progress(step)(done, total),
    )
    if as_json:
        click.echo(json.dumps(asdict(bench), allow_nan=False))
        return
    for line in _report(bench):
        click.echo(line)
    for model in bench.models:
        for batch in model.left_out:
            click.echo(
                printable(
                    f"{model.file}: a call of {batch} images takes long here; "
                    f"--batch {batch} measures it"
                ),
                err=True,
            )


def _report(bench: Bench) -> Iterator[str]:
    """The figures as tables for people."""
    names = _names([model.file for model in bench.models])
    several = len(names) > 1
    head = ["model", "batch", "p50", "p90", "p99", "images/s"]
    timed = [(n, t) for n, m in zip(names, bench.models, strict=True) for t in m.timings]
    times = []
    for name, timing in sorted(timed, key=lambda pair: pair[1].batch):  # stable: models in order
        cells = [f"{ms:.3f} ms" for ms in (timing.p50_ms, timing.p90_ms, timing.p99_ms)]
        cells = [name, str(timing.batch), *cells, f"{timing.images_per_second:,.1f}"]
        ratio = "-" if timing.ratio is None else f"{timing.ratio:.3f}"
        times.append([*cells, ratio] if several else cells)
    yield from _table([*head, "ratio"] if several else head, times)
    yield ""
    yield from _table(
        ["model", "load", "peak memory", "added", "provider", "threads"],
        [
            [
                name,
                f"{model.load.load_ms:.1f} ms",
                _megabytes(model.load.peak_memory_bytes),
                _megabytes(model.load.added_memory_bytes),
                model.provider,
                str(model.threads),
            ]
            for name, model in zip(names, bench.models, strict=True)
        ],
    )
    yield ""
    machine = bench.machine
    yield printable(
        f"{machine.processor}, {machine.cpus} CPUs, {machine.system}, Python {machine.python}, "
        f"ONNX Runtime {machine.onnxruntime}, numpy {machine.numpy}; "
        f"{bench.rounds:,} round{'s' if bench.rounds != 1 else ''}"
    )


def _names(files: Sequence[str]) -> list[str]:
    """Names of the files, or their paths if two names are equal."""
    short = [Path(file).name for file in files]
    return [printable(name) for name in (short if len(set(short)) == len(short) else files)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for name, *cells in (head, *rows):
        first, *others = widths
        yield "  ".join(
            [name.ljust(first), *(c.rjust(w) for c, w in zip(cells, others, strict=True))]
        )


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} MB"
