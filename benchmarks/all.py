"""Runs the benchmarks whose tables the docs show, one after the other: about 20 minutes, two cores.

    python -m benchmarks.all DATA [--photos PHOTOS] [--only NAME...]

DATA is the archive that the weights were trained on. PHOTOS, files or folders of large JPEGs, are
for `benchmarks.draft`, which is left out without them. `benchmarks.javascript` and `benchmarks.web`
need `make js` and Chromium, `benchmarks.c_library` and `benchmarks.c_speed` CMake and a C compiler.
The machine should be idle. Then `python -m benchmarks.render` updates the pages.
"""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import _browser, _c

_NEEDS: Final = {
    **dict.fromkeys(("javascript", "web"), _browser.missing),
    **dict.fromkeys(("c_library", "c_speed"), _c.missing),
}


def commands(data: str, photos: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The arguments of each benchmark, in the order to run them.

    Args:
        data: the archive.
        photos: large JPEGs, or folders of them.
    """
    figures = {
        "pareto": [data, "--plot", "docs/pareto.png"],
        "export": [],
        "calibration": [data],
        "overhead": [],
        "cold_start": [],
        "sessions": [],
        "swap": [],
        "throughput": [data],
        "damage": [],
        "javascript": [data],
        "web": [],
        "c_library": [data],
        "c_speed": [],
    }
    return figures | ({"draft": photos} if photos else {})


def main() -> None:
    """Run them."""
    arguments = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    arguments.add_argument("data")
    arguments.add_argument("--photos", nargs="+", default=[])
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="run these alone")
    options = arguments.parse_args()
    figures = commands(options.data, options.photos)
    names = options.only or list(figures)
    for name in names:  # before any of them, which take minutes
        if name not in figures:
            arguments.error(f"--only {name}: expected one of {', '.join(figures)}")
        if name in _NEEDS and (reason := _NEEDS[name]()):
            raise SystemExit(f"{name}: {reason}; --only leaves it out")
    for name in names:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *figures[name]], check=True)
        print(f"{name}: {time.monotonic() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
