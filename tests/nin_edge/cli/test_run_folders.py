"""`nin-edge run` on folders: links, odd names, what cannot be read, heatmaps among the photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def _labelled(result: Result) -> set[str]:
    return {Path(json.loads(line)["image"]).name for line in result.stdout.splitlines()}


def test_a_folder_is_read_through_links_and_the_rest_is_counted(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    (folder / "inside").rename(tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked" / "back").symlink_to(folder)
    (folder / "b.jpg").rename(folder / "img_1")
    (folder / "notes.txt").write_text("no image")
    (folder / "@eaDir").mkdir()
    result = _run(folder, "--model", tiny_model, "--json")
    assert result.exit_code == 0
    names = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    assert names == [str(folder / name) for name in ("a.png", "img_1", "linked/a.png")]
    (line,) = result.stderr.splitlines()
    assert line == (
        f"{folder}: passed over 1 file without an image's suffix or content, "
        "1 link to a folder above or read before, 1 system folder (@eaDir)"
    )


def test_what_cannot_be_read_in_a_folder_is_named_and_the_rest_labelled(
    folder: Path, tiny_model: Path
) -> None:
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "inside" / "loop").symlink_to("loop")
    result = _run(folder, "--model", tiny_model)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 3
    assert f"{folder}/gone.png: a link to nothing" in result.stderr
    assert f"{folder}/inside/loop: " in result.stderr
    assert "2 of 5 images could not be read" in result.stderr


@pytest.mark.parametrize("out", ["seen", "", "inside/seen"])
def test_heatmaps_among_the_photos_are_not_labelled_the_next_time(
    folder: Path, tiny_model: Path, out: str
) -> None:
    command = (folder, "--model", tiny_model, "--json", "--heatmap", folder / out)
    first = _run(*command)
    second = _run(*command)
    assert second.stdout == first.stdout
    assert _labelled(first) == {"a.png", "b.jpg"}
    assert "3 files that nin-edge wrote" in second.stderr


@pytest.mark.parametrize("out", ["heat.png", "heat/a.jpg"])
def test_a_heatmap_beside_its_photo_is_not_labelled_the_next_time(
    folder: Path, tiny_model: Path, out: str
) -> None:
    options = ("--model", tiny_model, "--json")
    assert _run(folder / "a.png", *options, "--heatmap", folder / out).exit_code == 0
    result = _run(folder, *options)
    assert len(result.stdout.splitlines()) == 3
    assert _labelled(result) == {"a.png", "b.jpg"}
