"""The folder that `nin-edge web` writes; tests/js/test_page.py has it in a browser."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import threading
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nin_edge import web
from nin_edge.cli import main
from nin_edge.data.download import Remote

SOURCE = Path(__file__).parents[2] / "runtime" / "js"
LINES = 400  # of the page's modules, all together
BYTES = 60_000  # of the page and nin-edge-js, without ONNX Runtime and the model
CONTENTS = {name: f"// not {name}".encode() for name in web._PARTS}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm package of small files, which the pinned checksums fit; and its archive in a cache."""
    parts = {
        name: (path, hashlib.sha256(CONTENTS[name]).hexdigest())
        for name, (path, _) in web._PARTS.items()
    }
    folder, archive = tmp_path / "npm" / "onnxruntime-web", io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, (path, _) in parts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(CONTENTS[name])
            tar.add(folder / path, f"package/{path}")
    (published := tmp_path / "registry" / web.PACKAGE.name).parent.mkdir()
    published.write_bytes(archive.getvalue())
    digest = hashlib.sha512(archive.getvalue()).hexdigest()
    remote = Remote(web.PACKAGE.urls, len(archive.getvalue()), digest, "sha512")
    monkeypatch.setattr(web, "_PARTS", parts)
    monkeypatch.setattr(web, "PACKAGE", remote)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def run(model: Path, folder: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["web", str(model), "-o", str(folder), *map(str, options)])


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_folder_has_all_that_the_page_names(
    package: Path, tmp_path: Path, tiny_model: Path
) -> None:
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", package)
    assert done.exit_code == 0, done.output
    assert re.search(r"site/index.html: a page for 3 labels, \d+ files of 0\.1 MB\n", done.stdout)
    assert f"--directory {tmp_path / 'site'}, then open http://localhost:8000" in done.stdout
    files = held(tmp_path / "site")
    assert files["model.onnx"] == tiny_model.read_bytes()
    for name, content in CONTENTS.items():
        assert files[f"onnxruntime-web/{name}"] == content
    own = {
        name: data.decode() for name, data in files.items() if re.search(r"(html|css|js)$", name)
    }
    named = {
        (Path(name).parent / link).as_posix().replace("page/../", "").replace("src/./", "src/")
        for name, text in own.items()
        for link in re.findall(r'(?:from|href=|src=) ?"([^":]+\.\w+)"', text)
    }
    assert {re.sub(r"^page/\./", "page/", name) for name in named} <= set(files)
    assert not [name for name, text in own.items() if re.search(r"https?://", text)]


def test_the_page_is_small(package: Path, tmp_path: Path, tiny_model: Path) -> None:
    page = web.write_page(tiny_model, tmp_path / "site", onnxruntime_web=package)
    own = (size for name, size in page.files.items() if name.split("/")[0] in ("page", "src"))
    assert sum(own) + page.files["index.html"] + page.files["sw.js"] < BYTES
    modules = (path.read_text("utf-8") for path in (SOURCE / "page").glob("*.js"))
    lines = [line for module in modules for line in module.splitlines()]
    assert len(lines) < LINES


def test_the_service_worker_keeps_every_file_and_changes_with_them(
    package: Path, tmp_path: Path, tiny_model: Path
) -> None:
    kept = []
    for model in (tiny_model, tiny_model.with_name("grey.fp32.onnx"), tiny_model):
        assert run(model, tmp_path / "site", "--onnxruntime-web", package).exit_code == 0
        head = (tmp_path / "site" / "sw.js").read_text().partition(";\n")[0]
        kept.append(json.loads(head.removeprefix("const PAGE = ")))
    names = set(held(tmp_path / "site")) - {"index.html", "sw.js"}
    assert {*kept[0]["files"]} == {"./", *names}
    assert kept[0] == kept[2]
    assert kept[0]["version"] != kept[1]["version"]


def test_the_pinned_release_is_the_one_that_npm_installs_for_the_tests() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))
    entry = lock["packages"]["node_modules/onnxruntime-web"]
    assert entry["version"] == web.RELEASE
    algorithm, _, digest = entry["integrity"].partition("-")
    assert algorithm == web.PACKAGE.algorithm
    assert b64decode(digest).hex() == web.PACKAGE.digest


# --- where ONNX Runtime Web comes from ------------------------------------------------------------


@pytest.fixture
def registry(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThreadingHTTPServer]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing in the tests' output."""

    handler = partial(Quiet, directory=str(tmp_path / "registry"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_address[1]}/{web.PACKAGE.name}"
    known = web.PACKAGE
    monkeypatch.setattr(web, "PACKAGE", Remote((url,), known.size, known.digest, known.algorithm))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_is_fetched_once_and_only_when_told_so(
    registry: ThreadingHTTPServer, tmp_path: Path, tiny_model: Path
) -> None:
    refused = run(tiny_model, tmp_path / "site")
    assert refused.exit_code == 1
    assert re.match(
        r"Error: onnxruntime-web 1\.30\.0 is not in .*: --download fetches it \(\d+ MB\), or "
        r"--onnxruntime-web names the folder of npm's$",
        refused.stderr.strip(),
    )
    assert not (tmp_path / "site").exists()
    assert run(tiny_model, tmp_path / "site", "--download").exit_code == 0
    registry.shutdown()
    assert run(tiny_model, tmp_path / "again").exit_code == 0
    assert held(tmp_path / "site") == held(tmp_path / "again")


@pytest.mark.parametrize("damage", ["not an archive", "another file", "cut"])
def test_a_damaged_archive_in_the_cache_is_one_line(
    package: Path, tmp_path: Path, tiny_model: Path, damage: str
) -> None:
    archive = tmp_path / "cache" / "nin-edge" / "downloads" / "onnxruntime-web" / web.PACKAGE.name
    archive.parent.mkdir(parents=True)
    sound = (tmp_path / "registry" / web.PACKAGE.name).read_bytes()
    archive.write_bytes(sound[: len(sound) // 2] if damage == "cut" else b"no archive")
    if damage == "another file":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tiny_model, "package/dist/other.onnx")
    done = run(tiny_model, tmp_path / "site")
    assert done.exit_code == 1
    assert re.match(r"Error: .*\.tgz: damaged \(.*\); delete it and fetch it again$", done.stderr)
    assert not (tmp_path / "site").exists()


def test_another_release_or_folder_of_npm_is_one_line(
    package: Path, tmp_path: Path, tiny_model: Path
) -> None:
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", tmp_path)
    assert "expected the folder node_modules/onnxruntime-web of `npm install" in done.stderr
    (package / "dist" / "ort.wasm.bundle.min.mjs").write_bytes(b"// of 1.29.0")
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", package)
    assert done.exit_code == 1
    assert re.search(r"min\.mjs has the SHA-256 \w{64}, expected \w{64} of onnx", done.stderr)
    assert not (tmp_path / "site").exists()
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", package, "--download")
    assert done.exit_code == 2


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["page", "pipe"])
def test_a_folder_of_another_page_is_left_alone(
    package: Path, tmp_path: Path, tiny_model: Path, kind: str
) -> None:
    (tmp_path / "site").mkdir()
    index = tmp_path / "site" / "index.html"
    if kind == "page":
        index.write_text("<title>Mine</title>")
    else:
        os.mkfifo(index)
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", package)
    assert done.exit_code == 1
    assert "index.html: of another page, expected a new folder" in done.stderr
    assert list((tmp_path / "site").iterdir()) == [index]


def test_a_model_that_is_there_is_not_replaced(
    package: Path, tmp_path: Path, tiny_model: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "model.onnx").write_bytes(b"mine")
    done = run(tiny_model, site, "--onnxruntime-web", package)
    assert done.exit_code == 1
    assert "model.onnx: no file of a page of nin-edge web" in done.stderr
    assert held(site) == {"model.onnx": b"mine"}
    (site / "model.onnx").write_bytes(tiny_model.read_bytes())  # the same
    assert run(tiny_model, site, "--onnxruntime-web", package).exit_code == 0


def test_a_pipe_in_npms_folder_is_not_waited_for(
    package: Path, tmp_path: Path, tiny_model: Path
) -> None:
    (module := package / "dist" / "ort.wasm.bundle.min.mjs").unlink()
    os.mkfifo(module)
    done = run(tiny_model, tmp_path / "site", "--onnxruntime-web", package)
    assert done.exit_code == 1
    assert "no dist/ort.wasm.bundle.min.mjs in it, expected the folder" in done.stderr


def test_a_damaged_model_writes_nothing(package: Path, tmp_path: Path, tiny_model: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[9000] ^= 1
    (tmp_path / "altered.onnx").write_bytes(data)
    done = run(tmp_path / "altered.onnx", tmp_path / "site", "--onnxruntime-web", package)
    assert done.exit_code == 1
    assert "damaged or altered since its export" in done.stderr
    assert not (tmp_path / "site").exists()
