"""`nin-edge verify`: does a model file still compute what it computed where it was exported?"""

from __future__ import annotations

from pathlib import Path

import click

from nin_edge.cli._common import PATH, printable, provider_option


@click.command("verify")
@click.argument("model", type=PATH)
@provider_option
def command(model: Path, provider: str) -> None:
    """Replay MODEL's golden samples on this device.

    The exit code is 3 if a probability differs from the exporting machine's by more than the
    tolerance of the model's precision.
    """
    from nin_edge_runtime import Classifier
    from nin_edge_runtime.verify import replay

    classify = Classifier(model, provider=provider)
    result = replay(classify)
    click.echo(
        f"{printable(str(model))}: as exported: {result.count} golden samples "
        f"within {result.difference:.1g} (tolerance {result.tolerance:g}, "
        f"{classify.info.precision}) on {classify.provider}"
    )
