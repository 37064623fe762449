"""`nin-edge verify`: does a model file compute here what it computed where it was made?"""

from __future__ import annotations

from pathlib import Path

import click

from nin_edge.cli import PATH, printable, provider_option


@click.command("verify")
@click.argument("model", type=PATH)
@provider_option
def command(model: Path, provider: str) -> None:
    """Replay MODEL's golden samples here; exit code 3 if the answers are not the file's own."""
    from nin_edge_runtime import Classifier
    from nin_edge_runtime.verify import replay

    classify = Classifier(model, provider=provider)
    result = replay(classify)
    click.echo(
        f"{printable(str(model))}: as exported: {result.count} golden samples "
        f"within {result.difference:.1g} (tolerance {result.tolerance:g}, "
        f"{classify.info.precision}) on {classify.provider}"
    )
