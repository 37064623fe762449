"""Which weights should answer `nin-edge run photo.jpg` where no model is named?

    python -m benchmarks.default_model FOLDER

Shows the photos below to the int8 files of `nin-cifar10` and `nin-photo`. FOLDER has them
somewhere under it: unpack there the wheels of scikit-image and scikit-learn, Debian's packages
mate-backgrounds, lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04, and clothing.tar. The labels
that count as right were written down before any answer was seen. Many photos show what a network
has no label for: there, a low score is what one can hope for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Set
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks._result import ROOT, Value, answer, parser
from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import find_weights
from nin_edge_export.export import ExportOptions, export_models
from nin_edge_runtime import Classifier, Prediction

CATS: Final = {"cat", "tabby", "egyptian-cat", "persian-cat"}
DOGS: Final = frozenset(
    (
        *("dog", "chihuahua", "german-shepherd", "golden-retriever", "labrador-retriever"),
        *("standard-poodle", "yorkshire-terrier"),
    )
)
RIGHT, WRONG, NO_LABEL = "right", "wrong", "without a label"
SURE: Final = 0.5
MATE: Final = "mate-backgrounds, GPL-2+"
LOMIRI: Final = "lomiri-wallpapers-16.04"


class Photo(NamedTuple):
    """A photo, and what counts as a right answer."""

    path: str
    """Its name, with the folders that are needed to tell it from others."""
    shows: str
    """What is in its centre square."""
    source: str
    """Where it is from, and its licence."""
    right: Set[str] = frozenset()
    """Labels of either network that are right."""


PHOTOS: Final = (
    Photo("cat.jpg", "a cat", "examples, see there", CATS),
    Photo("chelsea.png", "a cat's face", "scikit-image, CC0", CATS),
    Photo("coffee.png", "a cup of espresso", "scikit-image, CC0", {"espresso"}),
    Photo("astronaut.png", "a woman in a space suit", "scikit-image, public domain"),
    Photo("rocket.jpg", "a rocket before its launch", "scikit-image, CC0", {"projectile"}),
    Photo("motorcycle_left.png", "a motorcycle", "scikit-image, CC0"),
    Photo("china.jpg", "a pagoda", "scikit-learn, CC BY 2.0"),
    Photo("flower.jpg", "a dahlia", "scikit-learn, CC BY 2.0"),
    Photo("LadyBird.jpg", "a ladybird", MATE, {"ladybug"}),
    Photo("FreshFlower.jpg", "a flower", MATE),
    Photo("Garden.jpg", "a flower", MATE),
    Photo("YellowFlower.jpg", "a flower", MATE),
    Photo("TwoWings.jpg", "seeds of a dandelion", MATE),
    Photo("Dune.jpg", "grass, the sea behind", MATE, {"seashore"}),
    Photo("Storm.jpg", "clouds over a road", MATE),
    Photo(
        "Bridge_by_Sander_Klootwijk.jpg",
        "cables of a bridge",
        f"{LOMIRI}, CC BY-SA 4.0",
        {"suspension-bridge"},
    ),
    Photo(
        "Dragonfly_by_Bolly.jpg",
        "a dragonfly, small",
        f"{LOMIRI}, CC BY-SA 4.0",
        {"dragonfly"},
    ),
    Photo(
        "Wine_by_Jakkub_Mede.jpg",
        "a table with a bottle, a drum",
        f"{LOMIRI}, CC BY 4.0",
        {"dining-table"},
    ),
    Photo("friends_by_Aitzol_Berasategi.jpg", "two dogs", f"{LOMIRI}, CC BY 4.0", DOGS),
    Photo("life_by_Aitzol_Berasategi.jpg", "a stream", f"{LOMIRI}, CC BY 4.0"),
    Photo(
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "mountains",
        f"{LOMIRI}, CC BY 4.0",
        {"alp", "cliff"},
    ),
    Photo("seeding_by_Clements_Engelhardt.jpg", "dandelions", f"{LOMIRI}, CC0"),
    Photo(
        "free_by_Peter_Nerlich.jpg",
        "a bird made of cloth",
        f"{LOMIRI}, CC BY-SA 4.0",
        {"bird"},
    ),
    Photo(
        "Kleiber_by_Lukas_Baubkus.jpg",
        "a nuthatch",
        "lomiri-wallpapers-20.04, CC BY-SA 3.0",
        {"bird"},
    ),
    Photo("test/hat/00015.jpg", "a hat", "clothing.tar, CC0"),
    Photo(
        "test/outwear/00099.jpg",
        "a jacket",
        "clothing.tar, CC0",
        {"cardigan", "fur-coat"},
    ),
    Photo("test/shorts/00278.jpg", "shorts", "clothing.tar, CC0", {"swimming-trunks"}),
)


def main() -> None:
    """Ask and write."""
    arguments = parser(__doc__)
    arguments.add_argument("photos", type=Path, metavar="FOLDER")
    options = arguments.parse_args()
    paths = [_find(options.photos, photo.path) for photo in PHOTOS]
    rows: list[dict[str, Value]] = [
        {"photo": photo.path, "shows": photo.shows, "source": photo.source} for photo in PHOTOS
    ]
    notes = []
    for name in ("nin-cifar10", "nin-photo"):
        classify = _classifier(name)
        given = [classify(path) for path in paths]
        verdicts = [
            _verdict(photo, prediction, classify.labels)
            for photo, prediction in zip(PHOTOS, given, strict=True)
        ]
        for row, prediction, verdict in zip(rows, given, verdicts, strict=True):
            row |= {name: f"{prediction.label}, {prediction.score:.2f}", f"{name} is": verdict}
        unknown = [
            prediction.score
            for prediction, verdict in zip(given, verdicts, strict=True)
            if verdict == NO_LABEL
        ]
        notes.append(
            f"`{name}` has a label for {len(rows) - len(unknown)} photos and is right for "
            f"{verdicts.count(RIGHT)} of them; of the {len(unknown)} others it gives "
            f"{sum(score >= SURE for score in unknown)} a label with a score of {SURE} or more."
        )
    answer(
        "default_model",
        rows,
        rounds=f"{len(rows)} photos",
        packages=("onnxruntime", "numpy", "pillow"),
        notes=notes,
        output=options.output,
    )


def _find(folder: Path, path: str) -> Path:
    for place in (folder, ROOT / "examples"):
        if found := next(iter(sorted(place.rglob(path))), None):
            return found
    raise SystemExit(f"{folder}: no {path} under it")


def _classifier(name: str) -> Classifier:
    """The int8 file of weights that ship."""
    checkpoint = Checkpoint.load(find_weights(name))
    (model,) = export_models(checkpoint, ExportOptions(precisions=("int8",)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.int8.onnx")
        path.write_bytes(model.data)
        return Classifier(path)


def _verdict(photo: Photo, given: Prediction, labels: Collection[str]) -> str:
    if not photo.right & set(labels):
        return NO_LABEL
    return RIGHT if given.label in photo.right else WRONG


if __name__ == "__main__":
    main()
