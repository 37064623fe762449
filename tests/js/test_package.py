"""The npm package's description, which needs no Node to be checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nin_edge

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runtime" / "js"
MODULE_LINES = 400
LINE_LENGTH = 100


def test_the_package_has_the_projects_version_and_needs_no_other() -> None:
    package = json.loads((PACKAGE / "package.json").read_text("utf-8"))
    lock = json.loads((PACKAGE / "package-lock.json").read_text("utf-8"))
    assert package["version"] == lock["version"] == nin_edge.__version__
    assert "dependencies" not in package  # ONNX Runtime is passed in
    assert set(package["peerDependencies"]) == {"onnxruntime-node", "onnxruntime-web"}


def test_every_locked_package_is_pinned_by_hash_and_names_no_other_registry() -> None:
    lock = json.loads((PACKAGE / "package-lock.json").read_text("utf-8"))
    locked = {name: entry for name, entry in lock["packages"].items() if name}
    assert locked
    for name, entry in locked.items():
        assert re.match(r"sha512-", entry["integrity"]), name
        assert entry.get("resolved", "https://registry.npmjs.org/").startswith(
            "https://registry.npmjs.org/"
        ), name


def test_modules_keep_the_house_rules_of_size() -> None:
    folders = ("src", "test", "examples", "page", "chromium")
    modules = [path for folder in folders for path in (PACKAGE / folder).rglob("*.js")]
    assert modules
    for path in modules:
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= MODULE_LINES, path.name
        assert max(map(len, lines)) <= LINE_LENGTH, path.name


def test_pages_name_the_package_as_it_is_packed() -> None:
    named = {
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"nin-edge-js-[\w.-]+?\.tgz", page.read_text("utf-8"))
    }
    assert named == {f"nin-edge-js-{nin_edge.__version__}.tgz"}


def test_the_page_that_ships_in_the_package_has_no_relative_links() -> None:
    text = (PACKAGE / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
