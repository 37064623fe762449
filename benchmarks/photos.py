"""What does a maker get for a millisecond? Fine-tuning on photos, beside the usual choice.

    python -m benchmarks.photos DATA... [--seeds 5] [--photos 10 25 50 0] [--base NAME]...
        [--plot docs/photos.png] [--teacher | --without-lite0] [--left-out] [--set NAME=VALUE]...

Each base is fine-tuned by `nin-edge train` with its defaults, on each data set and on the given
numbers of training photos a class (0: all of them). EfficientNet-Lite0 with ImageNet weights,
frozen, under a new linear layer is what TFLite Model Maker does by default; it needs the packages
of photos-requirements.txt. Latency is that of the very files that are scored: int8 (fp32 for
EfficientNet-Lite0), full graph, one image, one thread. The test split is scored once a seed; each
seed draws other photos and other weights. `--teacher` adds nin-photo taught by EfficientNet-Lite0.
Each data set has an answer of its own, `photos_NAME.json`; `--plot` draws all such answers.

To choose the defaults, `--left-out` scores on the training photos that were not drawn, in place of
the test split, and `--set` tries another value of the recipe; `--output` says where to write that.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import nin_edge
from benchmarks._efficientnet import SIZE as LITE0_SIZE
from benchmarks._efficientnet import Features, Frozen
from benchmarks._measure import WARM_UP, timed
from benchmarks._result import RESULTS, answer, parser, read
from nin_edge import predict
from nin_edge.data import Dataset, locate, open_dataset
from nin_edge.kernels import budgeted_threads
from nin_edge.metrics import wilson_interval
from nin_edge.training.loop import train
from nin_edge.training.memory import keep_memory
from nin_edge.training.request import Request
from nin_edge.training.settings import parse_setting
from nin_edge.training.setup import Machine
from nin_edge.training.start import Start
from nin_edge_runtime import Classifier
from nin_edge_runtime.bench import interleave
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.providers import create_session

BASES: Final = ("nin-photo", "nin-cifar10-half")
LITE0: Final = "EfficientNet-Lite0, frozen"
TAUGHT: Final = "nin-photo, taught by EfficientNet-Lite0"
SHARE: Final = 0.1  # of the drawn photos that are held out, as `nin-edge train` does
ROUNDS: Final = 40
CALLS: Final = 5


@dataclass(frozen=True)
class Trained:
    """One network, trained once."""

    correct: int
    """Test images that its file classifies correctly."""
    images: int
    """Number of test images."""
    seconds: float
    """Time from opened data to trained weights."""
    model: Path
    """The file that was scored."""


def few(dataset: Dataset, photos: int, seed: int, *, left_out: bool = False) -> Dataset:
    """The data set with so many photos of each class to train on, a tenth of them held out.

    Args:
        dataset: the whole data set.
        photos: photos a class; 0 for all, with the hold-out that the data have.
        seed: which ones.
        left_out: whether the other training photos take the place of the test split.
    """
    if not photos:
        return dataset
    rng = np.random.default_rng(seed)
    own = np.concatenate([dataset.train, dataset.holdout])
    train, holdout = [], []
    for label in range(len(dataset.labels)):
        drawn = rng.permutation(own[dataset.targets[own] == label])[:photos]
        held = min(max(1, round(SHARE * len(drawn))), len(drawn) - 1)
        holdout.append(drawn[:held])
        train.append(drawn[held:])
    parts = {"train": np.sort(np.concatenate(train)), "holdout": np.sort(np.concatenate(holdout))}
    if left_out:
        parts["test"] = np.setdiff1d(own, np.concatenate(list(parts.values())))
    return replace(dataset, splits=(), **parts)


def fine_tuned(
    base: str,
    data: Path,
    photos: int,
    seed: int,
    folder: Path,
    *,
    teacher: Path | None = None,
    left_out: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Trained:
    """Fine-tune a base by nin-edge's defaults, export it, and score its int8 file."""
    teachers = (str(teacher),) if teacher else ()
    request = Request(base, None, None, None, teachers, {"seed": seed, **(settings or {})})
    start = Start.new(request)
    size, channels = start.input_shape(None)
    dataset = open_dataset(locate(data), size=size, channels=channels)
    dataset = few(dataset, photos, seed, left_out=left_out)
    dataset = start.with_larger(locate(data), dataset, lambda done, total: None)
    choices = start.choose(dataset, None, 1)
    started = time.perf_counter()
    train(
        dataset,
        choices.network,
        choices.recipe,
        choices.source,
        folder / "run",
        init=start.initial,
        teachers=start.teachers,
        machine=Machine(),
    )
    seconds = time.perf_counter() - started
    exported = nin_edge.export(
        folder / "run" / "best.safetensors", folder, eval_data=False, precisions="int8"
    )
    (model,) = exported.files
    scores = predict.evaluate(predict.open_predictor(model, "cpu"), dataset, "test")
    return Trained(round(scores.top1 * scores.count), scores.count, seconds, model)


def milliseconds(models: Mapping[str, Path]) -> dict[str, float]:
    """Median latency of each network's file, of one image on one thread, all in turns.

    That of EfficientNet-Lite0 is without decoding and resizing.
    """
    runs = {}
    for network, model in models.items():
        if network == LITE0:
            session, _ = create_session(model.read_bytes(), model.name, provider="cpu", threads=1)
            image = {"image": np.zeros((1, 3, LITE0_SIZE, LITE0_SIZE), np.float32)}
            runs[network] = timed(partial(session.run, None, image), CALLS)
        else:
            classify = Classifier(model, provider="cpu", threads=1)
            size = classify.info.preprocessing.size
            runs[network] = timed(partial(classify, golden_image(0, size, size)), CALLS)
    interleave(runs, lambda done: done < WARM_UP)
    times = interleave(runs, lambda done: done < ROUNDS)
    return {network: 1e3 * statistics.median(times[network]) for network in models}


def row_of(data: str, photos: int, network: str, each: Sequence[Trained]) -> dict[str, Any]:
    """A line of the table, without the latency."""
    correct, images = sum(one.correct for one in each), sum(one.images for one in each)
    low, high = wilson_interval(round(correct / len(each)), round(images / len(each)))
    return {
        "data": data,
        "photos_a_class": photos or "all",
        "network": network,
        "test_images": each[0].images,
        "top1": correct / images,
        "top1_low": low,
        "top1_high": high,
        "each_seed": [one.correct / one.images for one in each],
        "train_seconds": statistics.median(one.seconds for one in each),
        "bytes": each[0].model.stat().st_size,
    }


def lite0(
    dataset: Dataset, features: Features, photos: int, *, options: Namespace, folder: Path
) -> Iterator[Trained]:
    """EfficientNet-Lite0's linear layer for each seed."""
    for seed in range(options.seeds):
        chosen = few(dataset, photos, seed, left_out=options.left_out)
        fitted = Frozen.fit(chosen, features)
        assert fitted.test is not None  # the data have a test split
        model = folder / f"lite0-{photos}-{seed}.onnx"
        fitted.write(model)
        count = fitted.test.count
        share = len(chosen.train) / len(dataset.images)  # of the images that were computed
        yield Trained(
            round(fitted.test.top1 * count), count, fitted.seconds + share * features.seconds, model
        )


def plot(path: Path) -> None:
    """Draw the accuracy with all photos, or most of them, against the latency: of each answer."""
    from matplotlib.figure import Figure

    from nin_edge.plots import COLOURS, to_png

    answers = [file for file in sorted(RESULTS.glob("photos_*.json")) if "taught" not in file.stem]
    rows: list[Mapping[str, Any]] = [row for file in answers for row in read(file).rows]
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(3.6 * len(names), 3), dpi=120, layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        own = [row for row in rows if row["data"] == name]
        own = [row for row in own if row["photos_a_class"] == own[-1]["photos_a_class"]]
        for row in own:
            top1, low, high = (100 * row[key] for key in ("top1", "top1_low", "top1_high"))
            colour = COLOURS["ink" if row["network"] == LITE0 else "accent"]
            error = [[top1 - low], [high - top1]]
            axes.errorbar(row["latency_ms"], top1, yerr=error, fmt="o", color=colour)
            # Labels of networks that take about the same time would overlap on one side.
            fastest = row["latency_ms"] == min(one["latency_ms"] for one in own)
            axes.annotate(
                row["network"],
                (row["latency_ms"], top1),
                xytext=(-6 if fastest else 6, -3),
                textcoords="offset points",
                horizontalalignment="right" if fastest else "left",
                fontsize=7,
            )
        axes.set(xscale="log", xlabel="milliseconds an image, one thread", ylabel="test top-1, %")
        photos = own[0]["photos_a_class"]
        shown = "all photos" if photos == "all" else f"{photos} photos a class"
        axes.set_title(f"{name}, {shown}", fontsize=9)
        axes.margins(x=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    path.write_bytes(to_png(figure))


def table(data: Path, options: Namespace, folder: Path) -> list[dict[str, Any]]:
    """All lines of a data set.

    Args:
        data: the data set.
        options: those of the command line.
        folder: where to train.
    """
    settings = dict(map(parse_setting, options.set))
    tune = partial(fine_tuned, left_out=options.left_out, settings=settings)
    name = locate(data).name
    frozen = None
    if not options.without_lite0:
        dataset = open_dataset(locate(data), size=LITE0_SIZE)
        features = Features.of(dataset)
        frozen = partial(lite0, dataset, features, options=options, folder=folder)
    rows: list[dict[str, Any]] = []
    files: dict[str, Path] = {}
    for photos in options.photos:
        found = {LITE0: list(frozen(photos))} if frozen else {}
        for seed in range(options.seeds):
            for base in options.base or BASES:
                run = folder / f"{name}-{photos}-{base}-{seed}"
                found.setdefault(base, []).append(tune(base, data, photos, seed, run))
            if options.teacher:
                run = folder / f"{name}-{photos}-taught-{seed}"
                teacher = found[LITE0][seed].model
                found.setdefault(TAUGHT, []).append(
                    tune(BASES[0], data, photos, seed, run, teacher=teacher)
                )
        for network, each in found.items():
            files[network] = each[0].model
            rows.append(row_of(name, photos, network, each))
            print(rows[-1], flush=True)
    latency = milliseconds(files)
    return [row | {"latency_ms": latency[row["network"]]} for row in rows]


def main() -> None:
    """Train, measure, write and draw."""
    arguments = parser(__doc__)
    arguments.add_argument("data", nargs="+", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--photos", nargs="+", type=int, default=[10, 25, 50, 0])
    arguments.add_argument("--base", action="append", help=f"instead of {', '.join(BASES)}")
    arguments.add_argument("--teacher", action="store_true")
    arguments.add_argument("--without-lite0", action="store_true")
    arguments.add_argument("--left-out", action="store_true")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    if options.output and len(options.data) > 1:
        arguments.error("--output takes one data set: each has an answer of its own")
    if (options.left_out or options.set) and not options.output:
        arguments.error("--left-out and --set choose defaults, whose table is another: --output")
    if options.left_out and 0 in options.photos:
        arguments.error("--left-out scores on photos that were not drawn: --photos without 0")
    if options.teacher and options.without_lite0:
        arguments.error("--teacher needs EfficientNet-Lite0: leave out --without-lite0")
    if options.plot and options.output:
        arguments.error("--plot draws the answers in benchmarks/results: leave out --output")
    logging.getLogger("nin_edge").setLevel(logging.ERROR)
    keep_memory()
    for data in options.data:
        with tempfile.TemporaryDirectory() as temporary, budgeted_threads():
            rows = table(data, options, Path(temporary))
        answer(
            "photos",
            rows,
            rounds=f"{options.seeds} seeds; latency: {ROUNDS} rounds of {CALLS} calls",
            packages=("torch", "onnxruntime"),
            results=f"photos_{locate(data).name}{'_taught' if options.teacher else ''}",
            output=options.output,
        )
    if options.plot:
        plot(options.plot)


if __name__ == "__main__":
    main()
