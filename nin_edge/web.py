"""A page that classifies in the browser with a model file: `nin-edge web`.

The page and the package `nin-edge-js` come with nin-edge. ONNX Runtime Web comes from the npm
registry: it is fetched when the user says so, or taken from an installation by npm. Either must be
the pinned release, byte for byte. The page loads nothing from another host.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nin_edge.data.cache_folder import cache_errors, default_cache
from nin_edge.data.download import Progress, Remote, download
from nin_edge.files import require_folder, write_atomically
from nin_edge_runtime import ModelInfo, read_model
from nin_edge_runtime.errors import NinEdgeError
from nin_edge_runtime.folders import read_start

RELEASE: Final = "1.30.0"
"""The release of onnxruntime-web that the page is tested with."""

PACKAGE: Final = Remote(
    (f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{RELEASE}.tgz",),
    33_106_585,
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61",
    "sha512",
)
"""It as npm publishes it."""

# WebAssembly alone, the smallest build: each part's name in the page, in the package, its SHA-256.
# The module ends in .js: many servers do not know that .mjs is JavaScript.
_PARTS: Final = {
    "ort.wasm.bundle.min.js": (
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort-wasm-simd-threaded.wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
_PART_BYTES: Final = 1 << 25  # more than any part has
_HEAD_BYTES: Final = 4096
_MARK: Final = b'name="generator" content="nin-edge"'
# Indentation, and comments of whole lines: 40% of the bytes, which no browser needs.
_FOR_READERS: Final = re.compile(rb"(?ms)^[ \t]*((/\*\*.*?\*/|//[^\n]*)\n)?")


@dataclass(frozen=True)
class WebPage:
    """A page that was written."""

    folder: Path
    """The folder that a server has to serve."""
    files: Mapping[str, int]
    """Its files by their path in the folder, and their sizes in bytes."""
    info: ModelInfo
    """Metadata of its model."""


def write_page(
    model: Path,
    folder: Path,
    *,
    onnxruntime_web: Path | None = None,
    fetch: bool = False,
    progress: Progress | None = None,
) -> WebPage:
    """Write a folder that any server of static files turns into a page for a model.

    Args:
        model: an `.onnx` file from `nin-edge export`.
        folder: where the page goes; made if needed, its files are replaced.
        onnxruntime_web: folder of the npm package; the download in the cache if None.
        fetch: download the package to the cache if it is not there.
        progress: called with how the download goes.

    Raises:
        ModelFileError: there is no such model, or it is damaged.
        NinEdgeError: ONNX Runtime Web is missing or another release, or the folder has another
            page's files.
        DownloadError: the download failed.
        OSError: the folder is not writable or the disk is full.
    """
    data, info = read_model(model)
    require_folder(folder)
    index = folder / "index.html"
    own = index.exists() and _MARK in read_start(index, _HEAD_BYTES)
    if index.exists() and not own:
        raise NinEdgeError(
            f"{index}: of another page, expected a new folder or one of nin-edge web"
        )
    parts = _installed(onnxruntime_web) if onnxruntime_web else _downloaded(fetch, progress)
    files = {
        **dict(_page()),
        **{f"onnxruntime-web/{name}": content for name, content in parts.items()},
        "model.onnx": data,
    }
    files["index.html"] = _with_preloads(files)
    files["sw.js"] = _with_list(files)  # the last to be written: it makes browsers load the others
    others = [name for name in files if (folder / name).exists() and not own]
    for name in others:
        if read_start(folder / name, len(files[name]) + 1) != files[name]:
            raise NinEdgeError(
                f"{folder / name}: no file of a page of nin-edge web, which would replace it; "
                "expected a new folder"
            )
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return WebPage(folder, {name: len(content) for name, content in files.items()}, info)


def _page() -> Iterator[tuple[str, bytes]]:
    """The page's own files and nin-edge-js, by their path in the folder."""
    installed = Path(__file__).parent / "javascript"
    source = Path(__file__).parent.parent / "runtime" / "js"  # of a checkout
    root = installed if installed.is_dir() else source
    for part in ("page", "src"):
        for path in sorted((root / part).iterdir()):
            top = path.name in ("index.html", "sw.js")
            content = _FOR_READERS.sub(b"", path.read_bytes())
            yield path.name if top else f"{part}/{path.name}", content


def _with_preloads(files: Mapping[str, bytes]) -> bytes:
    """The page, which asks for all modules at once; each would be found in the one before."""
    modules = [name for name in files if name.endswith(".js") and name != "sw.js"]
    links = "".join(f'<link rel="modulepreload" href="{name}">\n' for name in modules)
    return files["index.html"].replace(b"</head>", f"{links}</head>".encode())


def _with_list(files: Mapping[str, bytes]) -> bytes:
    """The service worker with the list of files that it keeps, and what changes with them."""
    checksum = hashlib.sha256()
    for name, content in sorted(files.items()):
        checksum.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    names = ["./", *(name for name in files if name not in ("index.html", "sw.js"))]
    page = {"version": checksum.hexdigest()[:16], "files": names}
    return f"const PAGE = {json.dumps(page)};\n".encode() + files["sw.js"]


def _installed(package: Path) -> dict[str, bytes]:
    """The parts of ONNX Runtime Web, of an installation by npm."""
    parts = {}
    for name, (path, _) in _PARTS.items():
        parts[name] = read_start(package / path, _PART_BYTES)
        if not parts[name]:
            raise NinEdgeError(
                f"{package}: no {path} in it, expected the folder node_modules/onnxruntime-web of "
                f"`npm install onnxruntime-web@{RELEASE}`"
            )
    return _checked(parts, package)


def _downloaded(fetch: bool, progress: Progress | None) -> dict[str, bytes]:
    """The parts of ONNX Runtime Web, of the published archive in the cache."""
    cache = default_cache()
    folder = cache / "downloads" / "onnxruntime-web"
    archive = folder / PACKAGE.name
    if fetch:
        with cache_errors(cache):
            download([PACKAGE], folder, progress=progress)
    elif not archive.is_file():
        raise NinEdgeError(
            f"onnxruntime-web {RELEASE} is not in {folder}: --download fetches it "
            f"({PACKAGE.size / 1e6:.0f} MB), or --onnxruntime-web names the folder of npm's"
        )
    try:
        with tarfile.open(archive) as package:
            parts = {
                name: file.read(_PART_BYTES)
                for name, (path, _) in _PARTS.items()
                if (file := package.extractfile(f"package/{path}")) is not None
            }
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise NinEdgeError(f"{archive}: damaged ({error}); delete it and fetch it again") from error
    return _checked(parts, archive)


def _checked(parts: dict[str, bytes], source: Path) -> dict[str, bytes]:
    """The parts, if they are the pinned ones."""
    for name, (path, wanted) in _PARTS.items():
        digest = hashlib.sha256(parts[name]).hexdigest()
        if digest != wanted:
            raise NinEdgeError(
                f"{source}: {path} has the SHA-256 {digest}, expected {wanted} of "
                f"onnxruntime-web {RELEASE}"
            )
    return parts
