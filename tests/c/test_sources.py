"""The C library's sources, which need no compiler to be checked."""

from __future__ import annotations

import re
from pathlib import Path

import nin_edge

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "runtime" / "c"
LINE_LENGTH = 100


def test_the_header_has_the_projects_version() -> None:
    header = (LIBRARY / "nin_edge.h").read_text("utf-8")
    assert re.findall(r'#define NIN_EDGE_VERSION "(.*)"', header) == [nin_edge.__version__]


def test_lines_keep_the_house_rule_of_length() -> None:
    sources = [
        path
        for folder in (LIBRARY, LIBRARY / "test", ROOT / "examples" / "c")
        for path in folder.glob("*.[ch]")
    ]
    assert len(sources) >= 6
    for path in sources:
        assert max(map(len, path.read_text("utf-8").splitlines())) <= LINE_LENGTH, path.name


def test_the_vendored_header_stands_with_its_licence_and_version() -> None:
    folder = LIBRARY / "third_party" / "onnxruntime"
    header = (folder / "onnxruntime_c_api.h").read_text("utf-8")
    version = re.findall(r"#define ORT_API_VERSION (\d+)", header)
    assert f"release 1.{version[0]}.0" in (folder / "README.md").read_text("utf-8")
    assert "MIT License" in (folder / "LICENSE").read_text("utf-8")
    oldest = re.findall(r"ORT_OLDEST = (\d+)", (LIBRARY / "nin_edge.c").read_text("utf-8"))
    assert f"ONNX Runtime 1.{oldest[0]} or newer" in (LIBRARY / "nin_edge.h").read_text("utf-8")
