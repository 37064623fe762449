"""`nin-edge train`: fit a network to labelled images."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nin_edge.cli._common import EXIT_INTERRUPTED, PATH, clear_line, printable, shell_quoted
from nin_edge.cli._data import (
    dataset_option,
    download_option,
    locate_data,
    open_data,
    require_folder,
    torch_device,
)
from nin_edge.cli._progress import Reporter, StopOnSignal

if TYPE_CHECKING:
    from nin_edge.checkpoint import Checkpoint, DataSource
    from nin_edge.data import Dataset, Location
    from nin_edge.network import NetworkConfig
    from nin_edge.training.finetune import Pretrained
    from nin_edge.training.loop import Progress
    from nin_edge.training.recipe import Recipe
    from nin_edge.training.workers import Team

_RECIPE_OPTIONS: Final = (
    *("epochs", "batch_size", "learning_rate", "small_images", "crop", "cutout", "cutmix", "flip"),
    *("balanced", "patience", "frozen_blocks", "teaching", "bf16", "fp16", "seed"),
)


@click.command("train", short_help="Train or fine-tune a network on DATA.")
@click.argument("data", type=PATH)
@dataset_option
@download_option
@click.option(
    "--init",
    type=PATH,
    metavar="WEIGHTS",
    help="Start from trained weights: a checkpoint, or a name such as nin-cifar10.",
)
@click.option(
    "--freeze",
    "frozen_blocks",
    type=int,
    help="Blocks, from the first, that keep the weights of --init.",
)
@click.option(
    "--distill-from",
    "teachers",
    type=PATH,
    multiple=True,
    metavar="WEIGHTS",
    help="Learn the answers of a trained network, too: a wider one of the same classes; given "
    "several times, the mean of theirs.",
)
@click.option(
    "--teaching",
    type=float,
    help="Part of the loss, 0 to 1, that --distill-from has, the rest is the labels'; 0.5 if not "
    "given.",
)
@click.option(
    "--preset",
    default="nin-bn",
    help="Network: nin-bn (batch normalisation), nin (the paper's) or nin-imagenet (for photos).",
)
@click.option(
    "--width", type=float, default=1.0, show_default=True, help="Multiplier of the channel counts."
)
@click.option(
    "--dropout",
    type=float,
    help="Probability of dropping an activation after each pooling, against learning by heart; the "
    "weights' or the network's own (0.5 for nin, else none) if not given.",
)
@click.option(
    "--size",
    type=int,
    help="Side of the input in pixels, 16 to 512; the official archive's, the weights' or the "
    "network's own (32, 224 for nin-imagenet) if not given.",
)
@click.option(
    "--channels", type=int, help="3 for colour, 1 for grey; found as the size is if not given."
)
@click.option(
    "--epochs", type=int, default=10, show_default=True, help="Passes over the training images."
)
@click.option(
    "--patience",
    type=int,
    help="Epochs, of images at full size, without a lower loss on the hold-out that end the run "
    "early, 0 for never; with --init a quarter of --epochs, else 0 if not given.",
)
@click.option(
    "--batch-size",
    type=int,
    help="Images a step; 250 for nin-bn, 128 for nin, 64 for nin-imagenet, fewer for small data "
    "sets if not given.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=float,
    help="Peak learning rate; 0.2, but 0.02 for nin, if not given.",
)
@click.option(
    "--small-images",
    type=float,
    help="Part of the epochs, the first ones, that see images at five eighths of their side; 0.5 "
    "if not given, but none for nin.",
)
@click.option(
    "--crop",
    type=int,
    help="Largest random shift of an image, in pixels per 32 of its side; 2 if not given.",
)
@click.option(
    "--cutout",
    type=int,
    help="Side of a square of each image that is covered, in pixels per 32 of its side; none if "
    "not given.",
)
@click.option(
    "--cutmix",
    type=float,
    help="Part of the images, 0 to 1, of which a square of random size is another image's, and so "
    "much of the target; none if not given.",
)
@click.option(
    "--flip/--no-flip",
    default=None,
    help="Mirror images left to right in every other epoch; all but digits (MNIST) if not given.",
)
@click.option(
    "--balance/--no-balance",
    "balanced",
    default=None,
    help="Show all classes equally often; where one has 1.5 times as many images as another if "
    "not given.",
)
@click.option(
    "--bf16",
    is_flag=True,
    help="Compute in bfloat16, for processors and GPUs that have it; weights stay float32.",
)
@click.option(
    "--fp16",
    is_flag=True,
    help="Compute in float16 with loss scaling, for GPUs without bfloat16.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seeds weights, order and augmentation."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="On a GPU, compile the network first: about a minute, which long runs win back.",
)
@click.option(
    "--data-name", help="What the checkpoint calls the data set; its file name if not given."
)
@click.option(
    "--data-licence", default="not stated", show_default=True, help="Note on the images' licence."
)
@click.option(
    "--tensorboard", is_flag=True, help="Write TensorBoard's files, too, to RUN/tensorboard."
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
    official: str | None,
    download: bool,
    device: str,
    compiled: bool,
    resume: bool,
    tensorboard: bool,
    output: Path | None,
    init: Path | None,
    teachers: tuple[Path, ...],
    **options: Any,
) -> None:
    """Train on DATA: a folder or archive of <class>/* or train/<class>/* and test/<class>/*.

    Or the official CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST, by path or as cifar10, cifar100,
    mnist, fashion-mnist.

    With --init, DATA's images fine-tune trained weights, which takes fewer of them and less time.
    Started by torchrun, several processes share the work.

    Writes best.safetensors, last.safetensors, state.safetensors, metrics.csv, config.json,
    curves.png and confusion.png to the run folder. Ctrl-C saves the state; --resume goes on to the
    same result as without the interruption.
    """
    from nin_edge.checkpoint import DataSource
    from nin_edge.data import dataset_name
    from nin_edge.network import count_parameters
    from nin_edge.training.completion import TrainingStoppedError
    from nin_edge.training.finetune import Pretrained
    from nin_edge.training.loop import train
    from nin_edge.training.memory import keep_memory
    from nin_edge.training.workers import joined
    from nin_edge_runtime import NinEdgeError

    run = output or Path("runs") / dataset_name(data)
    require_folder(run)
    ctx = click.get_current_context()
    given = {
        name: value
        for name, value in {
            **options,
            "init": init and str(init),
        }.items()
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    with joined(torch_device("--device", device)) as (team, where):
        if compiled and (where.type != "cuda" or team.size > 1):
            raise click.UsageError("--compile is for one process on a GPU, --device cuda")
        say = _say if team.leads else _say_nothing
        report = _reporter(run / "tensorboard" if tensorboard else None, team)
        if resume:
            initial = None  # its weights are in the run's state
            config, recipe, source, stored = _stored(run, given)
            teachers = teachers or stored
        else:
            if "teaching" in given and not teachers:
                raise click.UsageError(
                    "--teaching is the part of --distill-from WEIGHTS, which is missing"
                )
            initial = Pretrained.load(init) if init else None
            source = DataSource(options["data_name"] or "", options["data_licence"])
        tutors = [Pretrained.load(teacher) for teacher in teachers]
        with team.one_first():
            if team.leads and not resume and run.exists() and any(run.iterdir()):
                raise NinEdgeError(
                    f"{run}: already used; go on with it by --resume, or name another folder "
                    "with -o"
                )
            location = locate_data(data, official, download=download)
            if not resume:
                config, recipe = _settings(location, initial, options, given)
            dataset = open_data(location, config.size, config.channels, quiet=not team.leads)
        config = replace(config, classes=len(dataset.labels))
        for tutor in tutors:
            if count_parameters(config) > count_parameters(tutor.checkpoint.config):
                say(printable(f"{tutor.name}: a teacher that is smaller than its student"))
        if not resume:
            recipe = _suited(recipe, dataset, team, given, say)
            _say_head(initial, config, dataset, say)
        keep_memory()
        stop = StopOnSignal(twice=team.size == 1)
        started = time.monotonic()
        try:
            best = train(
                dataset,
                config,
                recipe,
                replace(source, name=source.name or dataset.name),
                run,
                init=initial,
                teachers=tutors,
                team=team,
                device=where,
                compiled=compiled,
                report=report,
                should_stop=stop,
            )
        except TrainingStoppedError as stopped:
            clear_line()
            named = f" --dataset {official}" if official else ""
            named += f" --device {device}" if device != "auto" else ""
            named += " --compile" if compiled else ""
            named += " --tensorboard" if tensorboard else ""
            again = f"train {shell_quoted(data)}{named} -o {shell_quoted(run)} --resume"
            say(f"{stopped}; to go on: {_launcher(team)} {again}")
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        finally:
            stop.restore()
    if team.leads:
        _conclude(run, best, recipe, time.monotonic() - started)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_nothing(text: str) -> None:
    """What all but the first of several processes say."""


def _launcher(team: Team) -> str:
    """How the command line was started."""
    if team.size == 1:
        return "nin-edge"
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    # Of more machines than this one, their user knows the rest.
    where = "--standalone" if here == team.size else "--nnodes ..."
    return f"torchrun {where} --nproc-per-node {here} -m nin_edge"


def _reporter(tensorboard: Path | None, team: Team) -> Callable[[Progress], None]:
    """What is told of the training's progress; nothing in other processes than the first."""
    if not team.leads:
        return lambda progress: None
    reporters: list[Callable[[Progress], None]] = [Reporter()]
    if tensorboard:
        from nin_edge.training.tensorboard import TensorBoard

        reporters.append(TensorBoard(tensorboard))

    def report(progress: Progress) -> None:
        for reporter in reporters:
            reporter(progress)

    return report


def _conclude(run: Path, best: Checkpoint, recipe: Recipe, seconds: float) -> None:
    """Say what came out, and what to do with it."""
    figures = best.metrics
    if figures["epochs"] < recipe.epochs:
        _say(
            f"ended after {figures['epochs']} of {recipe.epochs} epochs: "
            f"no lower loss on the hold-out in {recipe.patience}"
        )
    scores = [f"top-1 {figures['holdout_top1']:.2%} on the hold-out"]
    if "test_top1" in figures:
        scores.append(f"{figures['test_top1']:.2%} on {figures['test_images']:,} test images")
    scores.append(f"{seconds:.0f} s")
    click.echo(printable(f"{run / 'best.safetensors'}: {', '.join(scores)}"))
    click.echo(f"next: nin-edge export {shell_quoted(run / 'best.safetensors')}")


def _settings(
    location: Location,
    initial: Pretrained | None,
    options: dict[str, Any],
    given: dict[str, Any],
) -> tuple[NetworkConfig, Recipe]:
    """Network and recipe of a new run; what is out of range is a usage error."""
    from nin_edge.network import NetworkConfig
    from nin_edge.training.recipe import RECIPES, Recipe

    if options["frozen_blocks"] and not initial:
        raise click.UsageError("--freeze keeps the weights of --init WEIGHTS, which is missing")
    try:
        if initial:
            config = initial.checkpoint.config
            for name in ("preset", "width", "channels"):
                if given.get(name) not in (None, getattr(config, name)):
                    raise click.UsageError(
                        f"--{name} {given[name]}: the weights of --init have "
                        f"{getattr(config, name)}"
                    )
            shape: dict[str, Any] = {}
        else:
            shape = dict(zip(("size", "channels"), location.native_shape or (), strict=False))
            # The number of classes is known once the data set is open.
            config = NetworkConfig.from_preset(options["preset"], classes=2, width=options["width"])
        names = ("size", "channels", "dropout")
        shape |= {name: options[name] for name in names if options[name] is not None}
        config = replace(config, **shape)
        changes = {name: options[name] for name in _RECIPE_OPTIONS if options[name] is not None}
        if initial:
            changes = {"patience": max(3, options["epochs"] // 4)} | changes
        recipe = replace(RECIPES.get(config.preset, Recipe()), **changes)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if recipe.frozen_blocks >= len(config.blocks):
        raise click.UsageError(
            f"--freeze {recipe.frozen_blocks}: the network has {len(config.blocks)} blocks, "
            "the last of which has to learn"
        )
    return config, recipe


def _suited(
    recipe: Recipe, dataset: Dataset, team: Team, given: dict[str, Any], say: Callable[[str], None]
) -> Recipe:
    """The recipe with what the data themselves ask for, where no option says otherwise."""
    from nin_edge.training.batches import is_unequal
    from nin_edge.training.recipe import suited_batch

    if "batch_size" not in given:
        batch = suited_batch(recipe.batch_size, len(dataset.train), processes=team.size)
        recipe = replace(recipe, batch_size=batch)
    if "flip" not in given and dataset.official == "mnist":
        recipe = replace(recipe, flip=False)
        say("images are not mirrored, they are digits; --flip mirrors them")
    if "balanced" not in given and is_unequal(dataset.targets[dataset.train]):
        recipe = replace(recipe, balanced=True)
        say(
            "classes differ much in size and are shown equally often; "
            "--no-balance shows each image once"
        )
    return recipe


def _say_head(
    initial: Pretrained | None, config: NetworkConfig, dataset: Dataset, say: Callable[[str], None]
) -> None:
    """Say where the weights' own last layers are given up."""
    if not initial or initial.keeps_head(config, dataset.labels):
        return
    what = (
        f"a new last layer for {len(dataset.labels)} classes, "
        f"the weights' own {len(initial.checkpoint.labels)} are others"
        if dataset.labels != initial.checkpoint.labels
        else "new last layers, the weights' own are for another size"
    )
    say(printable(f"{initial.name}: {what}"))


def _stored(
    run: Path, given: dict[str, Any]
) -> tuple[NetworkConfig, Recipe, DataSource, tuple[Path, ...]]:
    """Settings of the run to resume, and its teachers; other options are a usage error."""
    from nin_edge.checkpoint import DataSource, read_config
    from nin_edge.training.loop import listed_teachers
    from nin_edge.training.recipe import Recipe
    from nin_edge_runtime import NinEdgeError

    path = run / "config.json"
    try:
        stored = json.loads(path.read_text("utf-8"))
        config, recipe = read_config(stored["network"]), Recipe(**stored["recipe"])
        source = DataSource(stored["data"]["name"], stored["data"]["licence"])
        init = stored["init"] and stored["init"]["weights"]
        teachers = tuple(Path(one["weights"]) for one in listed_teachers(stored["teacher"]))
    except FileNotFoundError:
        raise NinEdgeError(
            f"{run}: nothing to resume, expected a run folder with config.json in it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise NinEdgeError(f"{path}: not a run's configuration ({error})") from error
    if not (run / "state.safetensors").exists() and (init or (run / "metrics.csv").exists()):
        raise NinEdgeError(f"{run}: cannot be resumed, its state.safetensors is missing")
    known = {
        **asdict(config),
        **asdict(recipe),
        "data_name": source.name,
        "data_licence": source.licence,
        "init": init,
    }
    for name, value in given.items():
        was = known[name]
        if value != was:
            raise click.UsageError(
                f"{_option(name)} {value}: the run to resume was started with {was}"
            )
    return config, recipe, source, teachers


def _option(name: str) -> str:
    """What a parameter is called on the command line."""
    command = click.get_current_context().command
    return next(max(one.opts, key=len) for one in command.params if one.name == name)
