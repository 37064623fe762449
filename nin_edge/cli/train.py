"""`nin-edge train`: train a network on labelled images."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nin_edge.cli import _signals
from nin_edge.cli._common import PATH, clear_line, printable, shell_quoted
from nin_edge.cli._data import (
    dataset_option,
    download_option,
    labels_option,
    show_event,
    test_split_option,
    zip_encoding_option,
)
from nin_edge.cli._options import GroupedCommand
from nin_edge.cli._progress import Reporter, StopOnSignal
from nin_edge.text import accuracy
from nin_edge.training.settings import TYPES, parse_setting

if TYPE_CHECKING:
    from nin_edge.api import Run
    from nin_edge.training.progress import Event, Started
    from nin_edge.training.recipe import Recipe
    from nin_edge.training.tensorboard import TensorBoard
    from nin_edge.training.workers import Workers

_GROUPS: Final = {
    "Data": ("--dataset", "--download", "--labels", "--test-split", "--zip-encoding"),
    "Network": ("--init", "--preset", "--width", "--latency", "--size", "--distill-from"),
    "Training": ("--epochs", "--lr", "--seed", "--set"),
    "Running": ("--device", "--compile", "--resume", "--tensorboard", "-o"),
}
_NAMED: Final = (  # options of their own
    *("epochs", "learning_rate", "seed", "latency"),
    *("official", "download", "labels", "test_split", "zip_encoding"),
)
SETTINGS: Final = tuple(sorted(name for name in TYPES if name not in _NAMED))
"""The names that `--set` takes."""


@click.command(
    "train",
    cls=GroupedCommand,
    groups=_GROUPS,
    short_help="Train or fine-tune a network on DATA.",
)
@click.argument("data", type=PATH)
@dataset_option
@download_option
@labels_option
@test_split_option
@zip_encoding_option
@click.option(
    "--init",
    type=PATH,
    metavar="WEIGHTS",
    help="Fine-tune trained weights: a checkpoint, or a name such as nin-cifar10. nin-photo for "
    "photos, if no other network is asked for; none for random weights.",
)
@click.option(
    "--preset",
    help="Train a network from random weights: nin-photo or nin-photo-large, nin-bn or "
    "nin-deep (for CIFAR), nin (the paper's) or nin-imagenet.",
)
@click.option("--width", type=float, help="Multiplier of the channel counts; 1 if not given.")
@click.option(
    "--latency",
    type=float,
    metavar="MS",
    help="Choose the width instead: the largest whose int8 file takes at most so many milliseconds "
    "for an image, on one thread of this machine.",
)
@click.option(
    "--size",
    type=int,
    help="Side of the input in pixels, 16 to 512; that of an official data set, of the weights or "
    "of the preset if not given.",
)
@click.option(
    "--distill-from",
    type=PATH,
    multiple=True,
    metavar="WEIGHTS",
    help="Learn the predictions of a trained network, too: a checkpoint, a name or an .onnx model "
    "of any program; if repeated, their mean.",
)
@click.option(
    "--epochs",
    type=int,
    help="Passes over the training images; 10, or 10 to 120 to fine-tune on photos, if not given.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=float,
    help="Peak learning rate; 0.2 (for nin 0.02), half of it to fine-tune on few photos, if not "
    "given.",
)
@click.option("--seed", type=int, help="Seed of weights, order and augmentation; 0 if not given.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Change a rarer setting; may be repeated. Names: {', '.join(SETTINGS)}.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes CUDA where torch finds a device.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="On a GPU, compile the network first: takes about a minute, worthwhile for long runs.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in the output folder with its own settings; start a new run if the "
    "folder has none.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files to RUN/tensorboard.")
@click.option(
    "-o", "--output", type=PATH, metavar="RUN", help="The run's folder; runs/NAME if not given."
)
def command(
    data: Path,
    official: str | None,
    labels: Path | None,
    pairs: tuple[str, ...],
    tensorboard: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Train on DATA: a folder or archive of <class>/*, or of train/<class>/* with test/<class>/*.

    A folder validation/ beside train/ becomes the hold-out. Or train on CIFAR-10, CIFAR-100, MNIST
    or Fashion-MNIST, by path or as cifar10, cifar100, mnist, fashion-mnist. On photos, the weights
    nin-photo are fine-tuned, which takes fewer images and less time. Started by torchrun, several
    processes share the work.

    Writes best.safetensors, last.safetensors, state.safetensors, metrics.csv, config.json,
    curves.png and confusion.png to the run's folder. Ctrl-C, SIGTERM and SIGHUP save the state;
    --resume continues to the same result as without the interruption.
    """
    _sleep_if_busy()
    from nin_edge import api
    from nin_edge.data import dataset_name
    from nin_edge.training.errors import SettingError, TrainingStoppedError
    from nin_edge.training.workers import Workers

    output = output or Path("runs") / dataset_name(data)
    workers = Workers.from_environment()
    named = ("epochs", "learning_rate", "seed", "latency", "test_split", "zip_encoding")
    settings = {name: options.pop(name) for name in named}
    settings |= {"official": official, "download": options.pop("download") or None}
    settings |= {"labels": labels and str(labels)}
    stop = StopOnSignal(twice=workers.size == 1)
    display = _Display(_tensorboard(output, workers) if tensorboard else None, stop)
    try:
        for text in pairs:
            if (name := text.partition("=")[0].strip()) in _NAMED:
                raise SettingError(f"--set {text}: {name} has an option of its own")
            settings |= [parse_setting(text, SETTINGS)]
        run = api.train(
            data,
            output,
            on_progress=display,
            should_stop=stop,
            **options,
            **{name: value for name, value in settings.items() if value is not None},
        )
    except SettingError as error:
        raise click.UsageError(printable(str(error))) from error
    except TrainingStoppedError as stopped:
        if workers.is_main:
            again = _resume_command(data, official, output, tensorboard=tensorboard, **options)
            with suppress(OSError):  # after SIGHUP there is no terminal
                clear_line()
                click.echo(f"{stopped}; to continue: {_launcher(workers)} {again}", err=True)
        raise click.exceptions.Exit(_signals.exit_code()) from None
    finally:
        stop.restore()
    if workers.is_main:
        display.conclude(run)


def _sleep_if_busy() -> None:
    """On a busy machine, let torch's idle threads sleep: spinning takes time from other work.

    OpenMP reads the setting when torch is imported.
    """
    with suppress(OSError, AttributeError):  # Windows has no load average
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _Display:
    """Prints what a training reports, and its result."""

    def __init__(self, tensorboard: TensorBoard | None, stop: StopOnSignal) -> None:
        self._tensorboard, self._stop = tensorboard, stop
        self._reporter = Reporter()
        self._started = time.monotonic()
        self._recipe: Recipe | None = None

    def __call__(self, event: Event) -> None:
        from nin_edge.training.progress import Progress, Started

        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Progress):
            self._stop.begin()
            self._reporter(event)
            if self._tensorboard:
                self._tensorboard(event)
        else:
            show_event(event)

    def _start(self, started: Started) -> None:
        self._started, self._recipe = time.monotonic(), started.recipe
        for note in started.notes:
            click.echo(printable(note), err=True)

    def conclude(self, run: Run) -> None:
        """Print the scores, and the command that comes next."""
        scores, recipe = run.scores, self._recipe
        if recipe and scores.epochs and scores.epochs < recipe.epochs:
            click.echo(
                f"stopped early after {scores.epochs} of {recipe.epochs} epochs: no lower loss on "
                f"the hold-out in {recipe.patience}",
                err=True,
            )
        parts = []
        if holdout := scores.holdout:
            parts.append(f"top-1 {accuracy(holdout.top1, holdout.interval)} on the hold-out")
        if test := scores.test:
            parts.append(f"{accuracy(test.top1, test.interval)} on {test.images:,} test images")
        else:
            parts.append("no test score, since there is no test split")
        parts.append(f"{time.monotonic() - self._started:.0f} s")
        best = run.folder / "best.safetensors"
        click.echo(printable(f"{best}: {', '.join(parts)}"))
        click.echo(f"next: nin-edge export {shell_quoted(run.folder)}")


def _tensorboard(run: Path, workers: Workers) -> TensorBoard | None:
    from nin_edge.training.tensorboard import TensorBoard

    return TensorBoard(run / "tensorboard") if workers.is_main else None


def _resume_command(
    data: Path, official: str | None, output: Path, *, tensorboard: bool, **options: Any
) -> str:
    """Arguments of the command that continues a run."""
    device = options["device"]
    parts = [
        f"train {shell_quoted(data)}",
        f"--dataset {official}" if official else "",
        f"--device {device}" if device != "auto" else "",
        "--compile" if options["compiled"] else "",
        "--tensorboard" if tensorboard else "",
        f"-o {shell_quoted(output)} --resume",
    ]
    return " ".join(filter(None, parts))


def _launcher(workers: Workers) -> str:
    """The command that starts nin-edge in as many processes."""
    if workers.size == 1:
        return "nin-edge"
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    # With more machines than this one, the user knows their options.
    machines = "--standalone" if here == workers.size else "--nnodes ..."
    return f"torchrun {machines} --nproc-per-node {here} -m nin_edge"
