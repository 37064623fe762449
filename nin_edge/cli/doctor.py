"""`nin-edge doctor`: what is installed, what really runs, and the commands that fix the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from nin_edge.cli._common import EXIT_FAILED, printable

if TYPE_CHECKING:
    from nin_edge_runtime.doctor import Diagnosis


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Check this installation, and print the commands that fix it.

    Prints versions, providers, processor and threads. Each provider is started and replays the
    default model's golden samples. The exit code is 1 if there is a problem.
    """
    try:
        from nin_edge_runtime.doctor import diagnose
    except ImportError as error:  # of NumPy or Pillow, which the runtime itself needs
        reason = next(iter(str(error).strip().splitlines()), "its native library does not start")
        raise click.ClickException(
            f"NumPy or Pillow cannot be loaded ({printable(reason)}): "
            "pip install --force-reinstall numpy pillow"
        ) from error
    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps({"ok": diagnosis.ok, **asdict(diagnosis)}, indent=2))
    else:
        rows = list(_rows(diagnosis))
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            click.echo(f"{name.ljust(width)}  {printable(text)}")
    if not diagnosis.ok:
        raise click.exceptions.Exit(EXIT_FAILED)


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """The lines of the report: name and text."""
    packages = " and ".join(diagnosis.onnxruntime_packages)
    for name, version in diagnosis.versions.items():
        origin = f" from {packages}" if name == "ONNX Runtime" and packages and version else ""
        yield name, f"{version or 'not installed'}{origin}"
    for state in diagnosis.providers:
        verdict = "works: " if state.works else "does not work: " if state.included else ""
        yield f"provider {state.name}", f"{verdict}{state.detail}"
    cpu, threads = diagnosis.cpu, diagnosis.threads
    yield "processor", f"{cpu.model or 'unknown'}, {cpu.architecture}"
    if cpu.features is not None:
        listed = (f"{name} {'yes' if has else 'no'}" for name, has in cpu.features.items())
        yield "instructions", ", ".join(listed)
    yield "int8", cpu.int8
    quota = "no quota" if threads.quota is None else f"quota of {threads.quota:g} CPUs"
    yield (
        "threads",
        f"{threads.usable or 'unknown'}, by {threads.source} "
        f"({threads.cpus} CPUs, {threads.allowed} allowed, {quota})",
    )
    for name, value in diagnosis.variables.items():
        yield "variable", f"{name}={value}"
    for problem in diagnosis.problems:
        yield "problem", problem.what
        if problem.fix is not None:
            yield "  fix", problem.fix
    if diagnosis.ok:
        yield "problems", "none"
