"""`nin-edge train`: fit a network to labelled images."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from nin_edge.cli import EXIT_INTERRUPTED, PATH, clear_line, on_terminal, printable, shell_quoted
from nin_edge.cli._data import (
    dataset_option,
    download_option,
    open_data,
    require_folder,
    torch_device,
)

if TYPE_CHECKING:
    from nin_edge.network import NetworkConfig
    from nin_edge.train import Progress, Recipe

_NETWORK_OPTIONS = {"preset": "preset", "width": "width", "size": "size", "channels": "channels"}
_RECIPE_OPTIONS = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "learning_rate",
    "bf16": "bf16",
    "seed": "seed",
}


@click.command("train")
@click.argument("data", type=PATH)
@dataset_option
@download_option
@click.option(
    "--preset",
    default="nin-bn",
    help="Network: nin-bn (with batch normalisation) or nin (the paper's).",
)
@click.option(
    "--width", type=float, default=1.0, show_default=True, help="Multiplier of the channel counts."
)
@click.option(
    "--size",
    type=int,
    default=32,
    show_default=True,
    help="Side of the input in pixels, 16 to 512.",
)
@click.option(
    "--channels", type=int, default=3, show_default=True, help="3 for colour, 1 for grey."
)
@click.option(
    "--epochs", type=int, default=10, show_default=True, help="Passes over the training images."
)
@click.option(
    "--batch-size", type=int, help="Images a step; 250 for nin-bn, 128 for nin if not given."
)
@click.option(
    "--lr", type=float, help="Peak learning rate; 0.2 for nin-bn, 0.02 for nin if not given."
)
@click.option(
    "--bf16",
    is_flag=True,
    help="Compute in bfloat16 where the processor has it; weights stay float32.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seeds weights, order and augmentation."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--data-name", help="What the checkpoint calls the data set; its file name if not given."
)
@click.option(
    "--data-licence", default="not stated", show_default=True, help="Note on the images' licence."
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in the output folder, with its own settings."
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Run folder; runs/NAME of the data if not given.",
)
def command(
    data: Path,
    kind: str | None,
    download: bool,
    device: str,
    resume: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Train on DATA: a folder or archive of <class>/* or train/<class>/* and test/<class>/*.

    Or the official CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST, by path or as cifar10, cifar100,
    mnist, fashion-mnist.

    Writes best.safetensors, last.safetensors, state.safetensors, metrics.csv and config.json to the
    run folder. Ctrl-C saves the state; --resume goes on to the same result as without the
    interruption.
    """
    from nin_edge.checkpoint import DataSource
    from nin_edge.datasets import dataset_name
    from nin_edge.train import TrainingStoppedError, train
    from nin_edge_runtime import NinEdgeError

    run = output or Path("runs") / dataset_name(data)
    require_folder(run)
    ctx = click.get_current_context()
    given = {
        name
        for name in options
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    config, recipe, source = (
        _settings(options) if not resume else _stored(run, {name: options[name] for name in given})
    )
    if not resume and run.exists() and any(run.iterdir()):
        raise NinEdgeError(
            f"{run}: already used; go on with it by --resume, or name another folder with -o"
        )
    where = torch_device("--device", device)
    dataset = open_data(data, size=config.size, channels=config.channels, kind=kind, fetch=download)
    config = replace(config, classes=len(dataset.labels))
    keep_memory()
    stop = _StopOnSignal()
    started = time.monotonic()
    try:
        best = train(
            dataset,
            config,
            recipe,
            DataSource(source["name"] or dataset.name, source["licence"]),
            run,
            device=where,
            report=_Reporter(),
            should_stop=stop,
        )
    except TrainingStoppedError as stopped:
        clear_line()
        named = f" --dataset {kind}" if kind else ""
        again = f"nin-edge train {shell_quoted(data)}{named} -o {shell_quoted(run)} --resume"
        click.echo(f"{stopped}; to go on: {again}", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    finally:
        stop.restore()
    figures = best.metrics
    scores = [f"top-1 {figures['holdout_top1']:.2%} on the hold-out"]
    if "test_top1" in figures:
        scores.append(f"{figures['test_top1']:.2%} on {figures['test_images']:,} test images")
    scores.append(f"{time.monotonic() - started:.0f} s")
    click.echo(printable(f"{run / 'best.safetensors'}: {', '.join(scores)}"))
    click.echo(f"next: nin-edge export {shell_quoted(run / 'best.safetensors')}")


def _settings(options: dict[str, Any]) -> tuple[NetworkConfig, Recipe, dict[str, str]]:
    """Network, recipe and data source from the options; what is out of range is a usage error."""
    from nin_edge.network import NetworkConfig
    from nin_edge.train import DEFAULT_BATCH_SIZES, DEFAULT_LEARNING_RATES, Recipe

    try:
        # The number of classes is known once the data set is open.
        network = {field: options[name] for name, field in _NETWORK_OPTIONS.items()}
        config = NetworkConfig.from_preset(classes=2, **network)
        recipe = {field: options[name] for name, field in _RECIPE_OPTIONS.items()}
        for field, defaults in (
            ("learning_rate", DEFAULT_LEARNING_RATES),
            ("batch_size", DEFAULT_BATCH_SIZES),
        ):
            if recipe[field] is None:
                recipe[field] = defaults[config.preset]
        return (
            config,
            Recipe(**recipe),
            {"name": options["data_name"], "licence": options["data_licence"]},
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _stored(run: Path, given: dict[str, Any]) -> tuple[NetworkConfig, Recipe, dict[str, str]]:
    """Settings of the run to resume; options that say otherwise are a usage error."""
    from nin_edge.network import NetworkConfig
    from nin_edge.train import Recipe
    from nin_edge_runtime import NinEdgeError

    path = run / "config.json"
    try:
        stored = json.loads(path.read_text("utf-8"))
        network = stored["network"]
        network["blocks"], network["kernels"] = (
            tuple(map(tuple, network["blocks"])),
            tuple(network["kernels"]),
        )
        config, recipe = NetworkConfig(**network), Recipe(**stored["recipe"])
        source = {"name": stored["data"]["name"], "licence": stored["data"]["licence"]}
    except FileNotFoundError:
        raise NinEdgeError(
            f"{run}: nothing to resume, expected a run folder with config.json in it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise NinEdgeError(f"{path}: not a run's configuration ({error})") from error
    known = {
        **asdict(config),
        **asdict(recipe),
        "data_name": source["name"],
        "data_licence": source["licence"],
    }
    for name, value in given.items():
        was = known[_NETWORK_OPTIONS.get(name) or _RECIPE_OPTIONS.get(name) or name]
        if value != was:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {value}: the run to resume was started with {was}"
            )
    return config, recipe, source


def keep_memory() -> None:
    """Have the C library keep the memory that a step frees for the next one.

    By default, glibc gives large blocks back to the kernel, which zeroes them page by page when
    they are asked for again: more than a third of a step on a CPU (docs/results.md).
    """
    import ctypes

    no_mmap, trim_threshold, top_pad = -4, -1, -2  # M_MMAP_MAX and others of glibc's malloc.h
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in musl
    if mallopt is not None:
        for option, value in ((no_mmap, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            mallopt(option, value)


class _Reporter:
    """Prints progress: a line redrawn on a terminal, elsewhere one an epoch and one a minute."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._terminal = on_terminal()

    def __call__(self, progress: Progress) -> None:
        now, ended = time.monotonic(), progress.holdout_top1 is not None
        if not ended and now - self._printed < (0.5 if self._terminal else 60.0):
            return
        self._printed = now
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  {progress.done:4.0%}  "
            f"loss {progress.loss:.4f}  "
            + (f"hold-out {progress.holdout_top1:.2%}  " if ended else "")
            + f"{progress.images_per_second:,.0f} images/s  {minutes}:{seconds:02} left"
        )
        click.echo(
            f"\r{line}\033[K" if self._terminal else line, nl=ended or not self._terminal, err=True
        )


class _StopOnSignal:
    """Turns the first Ctrl-C or SIGTERM into a request to stop; the second acts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
