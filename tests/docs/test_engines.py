"""The page on other engines: its options make files that the runtime opens and verifies."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import Classifier
from nin_edge_runtime.verify import replay

if TYPE_CHECKING:
    from tests.docs.conftest import Page


def test_every_engines_options_make_files_that_verify(
    pages: list[Page], tiny_weights: Path
) -> None:
    (page,) = (page for page in pages if page.path.name == "engines.md")
    given = re.findall(r"^\| [^|`]+ \| `(--[^`]+)` \| ", page.prose, re.MULTILINE)
    assert len(given) == 8
    checkpoint = Checkpoint.load(tiny_weights)
    # Newer weights have a mean of a whole pixel, as those that were measured.
    steps = replace(checkpoint.preprocessing, mean=(128 / 255,) * 3)
    checkpoint = replace(checkpoint, preprocessing=steps)
    command = main.get_command(click.Context(main), "export")
    assert command is not None
    for options in dict.fromkeys(given):
        values = command.make_context("export", shlex.split(options)).params
        made = export_models(
            checkpoint,
            ExportOptions(
                embedded=values["embed_preprocess"], opset=values["opset"], batch=values["batch"]
            ),
        )
        assert len(made) == 3
        for model in made:
            assert model.info.engines
            classify = Classifier(model.data, provider="cpu", threads=1)
            assert replay(classify).difference < 1e-6
