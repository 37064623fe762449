from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nin_edge.data.datasets import Dataset, DatasetError, open_dataset
from PIL import Image

from nin_edge_runtime.image import Preprocessing, load_image

SIGN_DIGITS = 2062  # images in sign-digits.tar
MANY = 600  # images, more than are decoded without worker processes

ARCHIVES = ["data.tar", "data.tar.gz", "data.tar.bz2", "data.tar.xz", "data.zip"]


def read(path: Path, **options: object) -> Dataset:
    return open_dataset(path, **{"size": 16, **options})  # type: ignore[arg-type]


def same(a: Dataset, b: Dataset) -> bool:
    """Equal in everything that training uses."""
    arrays = ("images", "targets", "fit", "holdout", "test")
    values = ("labels", "names", "fingerprint", "unreadable")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays) and all(
        getattr(a, name) == getattr(b, name) for name in values
    )


def parts(dataset: Dataset) -> list[Counter[int]]:
    """Images of each class to fit, held out and to test."""
    indices = (dataset.train, dataset.holdout, dataset.test)
    return [Counter(dataset.targets[part].tolist()) for part in indices]


class Counted:
    """A progress callback that remembers its calls: none when the cache served."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


@pytest.fixture
def pair(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Two classes of ten images, without a split."""
    return make_folder(tmp_path / "pair", {"circle": 10, "square": 10})


@pytest.fixture
def split_pair(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Two classes of eight training and three test images."""
    counts = {f"{split}/{label}": n for split, n in (("train", 8), ("test", 3)) for label in "ab"}
    return make_folder(tmp_path / "split", counts)


# --- layouts and splits ---------------------------------------------------------------------------


def test_folders_name_the_split_and_the_class(split_pair: Path) -> None:
    dataset = read(split_pair)
    assert (dataset.name, dataset.labels, dataset.unreadable) == ("split", ("a", "b"), ())
    assert dataset.images.shape == (22, 16, 16, 3)
    assert dataset.images.dtype == np.uint8
    assert parts(dataset) == [{0: 7, 1: 7}, {0: 1, 1: 1}, {0: 3, 1: 3}]
    for index, name in enumerate(dataset.names):
        assert dataset.labels[dataset.targets[index]] == Path(name).parts[1]
        assert (index in dataset.test) == name.startswith("test/")


def test_pixels_are_those_of_the_runtime(split_pair: Path) -> None:
    dataset, preprocessing = read(split_pair), Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)
    for name, pixels in zip(dataset.names, dataset.images, strict=True):
        np.testing.assert_array_equal(pixels, preprocessing.resize(load_image(split_pair / name)))


def test_without_a_split_a_fifth_of_each_class_is_the_test(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    dataset = read(make_folder(tmp_path / "data", {"a": 50, "b": 10}))
    assert parts(dataset) == [{0: 36, 1: 7}, {0: 4, 1: 1}, {0: 10, 1: 2}]
    together = np.concatenate([dataset.train, dataset.holdout, dataset.test])
    assert np.array_equal(np.sort(together), np.arange(60))


def test_the_split_is_the_same_every_time(pair: Path, tmp_path: Path) -> None:
    assert same(read(pair, cache=tmp_path / "one"), read(pair, cache=tmp_path / "two"))


def test_training_images_alone_are_split_too(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    dataset = read(make_folder(tmp_path / "data", {"train/a": 10, "train/b": 10}))
    assert dataset.labels == ("a", "b")
    assert [sum(part.values()) for part in parts(dataset)] == [14, 2, 4]


def test_folders_around_the_data_are_passed(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path / "data" / "v2", {"pics/train/a": 3, "pics/train/b": 3, "pics/test/a": 1})
    dataset = read(tmp_path / "data")
    assert dataset.labels == ("a", "b")
    assert len(dataset.test) == 1


def test_folders_inside_a_class_belong_to_it(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    dataset = read(make_folder(tmp_path / "data", {"a/2024": 4, "a/2025": 4, "b": 4}))
    assert np.bincount(dataset.targets).tolist() == [8, 4]


def test_hidden_and_other_files_are_passed(pair: Path) -> None:
    before = read(pair)
    (pair / "circle" / "notes.txt").write_text("not an image")
    (pair / ".thumbnails").mkdir()
    (pair / ".thumbnails" / "x.png").write_bytes(b"junk")
    (pair / "circle" / "._000.png").write_bytes(b"junk")
    after = read(pair)
    assert (after.names, after.unreadable) == (before.names, ())


@pytest.mark.parametrize(("count", "share"), [(10_000, 0.02), (9_998, 0.1)])
def test_the_holdout_shrinks_to_two_percent_from_ten_thousand(
    tmp_path: Path, count: int, share: float
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "BMP")  # decodes fast
    with zipfile.ZipFile(tmp_path / "big.zip", "w") as archive:
        for index in range(count):
            archive.writestr(f"train/{index % 2}/{index:05}.bmp", buffer.getvalue())
        for label in "01":
            archive.writestr(f"test/{label}/x.bmp", buffer.getvalue())
    dataset = read(tmp_path / "big.zip", size=2, workers=1)
    assert len(dataset.holdout) == round(count * share / 2) * 2
    assert len(dataset.train) == count - len(dataset.holdout)


def test_grey_images_have_one_channel(pair: Path) -> None:
    dataset = read(pair, channels=1)
    assert dataset.images.shape == (20, 16, 16, 1)
    grey = Preprocessing(16, 1, (0.5,), (0.5,)).resize(load_image(pair / dataset.names[3]))
    np.testing.assert_array_equal(dataset.images[3], grey)


@pytest.mark.parametrize("label", ["été", "犬 子", "a:b*?\n", "e\u0301"])
def test_any_folder_name_is_a_label(tmp_path: Path, encoded: bytes, label: str) -> None:
    for folder in (label, "Z"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "data" / folder / f"{folder} {index}.PNG").write_bytes(encoded)
    for _ in range(2):  # decoded, then from the cache
        dataset = read(tmp_path / "data")
        assert dataset.labels == tuple(sorted([label, "Z"]))
        assert f"{label}/{label} 0.PNG" in dataset.names


def test_labels_are_in_code_point_order(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    dataset = read(make_folder(tmp_path / "data", dict.fromkeys(["b", "10", "é", "9", "B"], 3)))
    assert dataset.labels == ("10", "9", "B", "b", "é")


# --- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_equals_its_folder(
    split_pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], name: str
) -> None:
    dataset = read(pack(split_pair, tmp_path / name))
    assert dataset.name == "data"
    assert same(dataset, read(split_pair))


def test_tar_members_may_start_with_a_dot(pair: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dot.tar", "w") as tar:
        tar.add(pair, ".")  # as `tar -C folder -cf dot.tar .`
    dataset = read(tmp_path / "dot.tar")
    assert dataset.labels == ("circle", "square")
    np.testing.assert_array_equal(dataset.images, read(pair).images)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_of_a_member_written_twice_the_last_counts(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], encoded: bytes, kind: str
) -> None:
    archive = pack(pair, tmp_path / f"twice.{kind}")
    if kind == "tar":
        with tarfile.open(archive, "a") as tar:
            member = tarfile.TarInfo("square/000.png")
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    else:
        with zipfile.ZipFile(archive, "a") as zipped:
            zipped.writestr("square/000.png", encoded)
    dataset = read(archive)
    (pair / "square" / "000.png").write_bytes(encoded)
    assert same(dataset, read(pair))


def write_tar(path: Path, name: str, data: bytes, kind: bytes, target: str) -> None:
    with tarfile.open(path, "w") as tar:
        for member_name in ("a/0.png", "b/0.png"):
            member = tarfile.TarInfo(member_name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        member.size = len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/abs.jpg", "a/..", "..\\x.jpg"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_member_names_that_climb_out_are_refused(
    tmp_path: Path, encoded: bytes, name: str, kind: str
) -> None:
    path = tmp_path / f"evil.{kind}"
    if kind == "tar":
        write_tar(path, name, encoded, tarfile.REGTYPE, "")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member in ("a/0.png", "b/0.png", name):
                archive.writestr(member, encoded)
    with pytest.raises(DatasetError, match=r"climbs out of the archive") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("target", ["a/0.png", "/etc/passwd"])
def test_links_in_a_tar_are_refused(
    tmp_path: Path, encoded: bytes, kind: bytes, target: str
) -> None:
    write_tar(tmp_path / "evil.tar", "b/link.png", encoded, kind, target)
    with pytest.raises(DatasetError, match=r"'b/link\.png' is a link\b.* refused"):
        read(tmp_path / "evil.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path, encoded: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("a/0.png", "b/0.png"):
            archive.writestr(name, encoded)
        link = zipfile.ZipInfo("b/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match=r"'b/link\.png' is a link\b.* refused"):
        read(tmp_path / "evil.zip")


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.7])
def test_a_truncated_archive_is_refused(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], name: str, part: float
) -> None:
    path = pack(pair, tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DatasetError, match=r"truncated or broken|nor a readable") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [-600, 0, 200, 512])
def test_a_tar_that_ends_around_a_members_header_is_refused(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], cut: int
) -> None:
    path = pack(pair, tmp_path / "data.tar")
    with tarfile.open(path) as tar:
        start = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[: start + cut])
    with pytest.raises(DatasetError, match="truncated or broken"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am text\n" * 100,
        b"\x1f\x8b\x08junk",
        b"\xfd7zXZ\0junk",
        b"BZh9junk",
        b"PK\5\6",
    ],
    ids=["empty", "text", "gz", "xz", "bz2", "zip"],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.tar").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"data\.tar: (neither a folder nor|a truncated or broken)"
    ):
        read(tmp_path / "data.tar")


# --- what cannot be trained on --------------------------------------------------------------------


def test_unreadable_images_are_reported_and_left_out(pair: Path, encoded: bytes) -> None:
    files = {
        "circle/empty.jpg": b"",
        "circle/text.jpg": b"I am text",
        "square/short.png": encoded[: len(encoded) // 2],
    }
    for name, data in files.items():
        (pair / name).write_bytes(data)
    whole = read(pair)
    assert [name for name, _ in whole.unreadable] == sorted(files)
    assert all(reason for _, reason in whole.unreadable)
    for name in files:
        (pair / name).unlink()
    clean = read(pair)
    assert (whole.names, clean.unreadable) == (clean.names, ())
    np.testing.assert_array_equal(whole.images, clean.images)


def test_unreadable_files_come_from_the_cache_too(pair: Path) -> None:
    (pair / "circle" / "bad.jpg").write_bytes(b"I am text")
    assert read(pair).unreadable == read(pair).unreadable != ()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no image files in it"),
        ({"a/x.txt": b"text"}, "no image files in it"),
        ({"a/0.png": None, "a/1.png": None}, r"1 class \(a\), expected .* at least two"),
        ({"train/a/0.png": None, "test/a/0.png": None}, r"1 class \(a\), expected .* at least two"),
        ({"0.png": None, "1.png": None}, "0 classes, expected .* at least two"),
        ({"a/0.png": None, "b/0.png": b"text"}, "no readable training image of class b"),
        ({"train/a/0.png": None, "test/a/0.png": None, "test/b/0.png": None}, "image of class b"),
        ({"train/a/0.png": None, "val/a/0.png": None}, "found train, val, expected train and test"),
        (
            {"train/a/0.png": None, "test/a/0.png": None, "val/a/0.png": None},
            "val beside train and test",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, encoded: bytes, private_cache: Path, files: dict[str, bytes | None], words: str
) -> None:
    top = tmp_path / "data"
    top.mkdir()
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(encoded if data is None else data)
    with pytest.raises(DatasetError, match=words) as caught:
        read(top)
    assert str(caught.value).startswith(f"{top}: ")
    assert not private_cache.exists() or not list(private_cache.iterdir())  # nothing half-written


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing: no such file or folder"):
        read(tmp_path / "missing")


# --- the cache ------------------------------------------------------------------------------------


def test_the_second_call_decodes_nothing(pair: Path) -> None:
    first, second = Counted(), Counted()
    a, b = read(pair, progress=first), read(pair, progress=second)
    assert first.calls == [(20, 20)]
    assert second.calls == []
    assert same(a, b)


@pytest.mark.parametrize("options", [{"size": 17}, {"channels": 1}])
def test_each_kind_of_pixels_has_its_cache(pair: Path, options: dict[str, int]) -> None:
    read(pair)
    progress = Counted()
    read(pair, progress=progress, **options)
    assert progress.calls
    progress.calls.clear()
    read(pair, progress=progress)
    assert not progress.calls


@pytest.mark.parametrize("change", ["content", "time", "name", "added", "removed"])
def test_a_changed_folder_is_decoded_again(pair: Path, encoded: bytes, change: str) -> None:
    before, file = read(pair), pair / "square" / "003.png"
    stat = file.stat()
    if change == "content":
        file.write_bytes(encoded)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "name":
        file.rename(file.with_name("new.png"))
    elif change == "added":
        (pair / "square" / "more.png").write_bytes(encoded)
    else:
        file.unlink()
    progress = Counted()
    after = read(pair, progress=progress)
    assert progress.calls
    assert (after.fingerprint == before.fingerprint) == (change == "time")


def alter_index(**changes: object) -> Callable[[Path], None]:
    """A change of entries of the cache's index; None removes one."""

    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text()) | changes
        kept = {key: value for key, value in index.items() if value is not None}
        (folder / "index.json").write_text(json.dumps(kept))

    return change


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "images.u8").read_bytes())
    data[1000] ^= 1
    (folder / "images.u8").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda folder: os.truncate(folder / "images.u8", 1000),
        lambda folder: os.truncate(folder / "images.u8", 0),
        lambda folder: (folder / "images.u8").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_bytes(b"\xff garbage"),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: os.truncate(folder / "index.json", 50),
        alter_index(targets=[0] * 20),
        alter_index(labels=["cat", "dog"]),
        alter_index(fingerprint="0" * 64),
        alter_index(shape=[20, 16, 48, 1]),
        alter_index(unreadable=None),
        alter_index(unreadable=5),
    ],
    ids=[
        "altered images",
        "truncated images",
        "empty images",
        "no images",
        "no index",
        "garbage index",
        "list as index",
        "truncated index",
        "altered targets",
        "altered labels",
        "altered fingerprint",
        "altered shape",
        "index without unreadable",
        "index with strange unreadable",
    ],
)
def test_a_damaged_cache_is_rebuilt(
    pair: Path, private_cache: Path, damage: Callable[[Path], None]
) -> None:
    before = read(pair, cache=private_cache)
    images = before.images.copy()
    (folder,) = private_cache.iterdir()
    damage(folder)
    progress = Counted()
    after = read(pair, cache=private_cache, progress=progress)
    assert progress.calls
    np.testing.assert_array_equal(after.images, images)
    assert (after.fingerprint, after.labels) == (before.fingerprint, before.labels)
    assert [entry.name for entry in private_cache.iterdir()] == [folder.name]


def test_the_cache_lies_where_the_environment_says(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    read(pair)
    assert list((tmp_path / "xdg" / "nin-edge").iterdir())


# --- many images ----------------------------------------------------------------------------------


def test_several_workers_give_what_one_gives(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(tmp_path / "many", {"circle": MANY // 2, "square": MANY // 2})
    (folder / "circle" / "007.png").write_bytes(b"I am text")
    progress = Counted()
    one = read(folder, workers=1, cache=tmp_path / "one")
    several = read(folder, workers=3, cache=tmp_path / "several", progress=progress)
    assert same(one, several)
    assert [name for name, _ in several.unreadable] == ["circle/007.png"]
    assert progress.calls == [(done, MANY) for done in (128, 256, 384, 512, MANY)]


def test_sign_digits_opens(data_dir: Path) -> None:
    archive = data_dir / "sign-digits.tar"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    dataset = read(archive)
    assert dataset.labels == tuple("0123456789")
    assert dataset.images.shape == (SIGN_DIGITS, 16, 16, 3)
    assert dataset.unreadable == ()


def test_a_folder_name_that_is_no_text_is_refused(tmp_path: Path, encoded: bytes) -> None:
    for folder in (os.fsdecode(b"\xff\xfe"), "Z"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "1.png").write_bytes(encoded)
    with pytest.raises(DatasetError, match="not UTF-8"):
        read(tmp_path / "data")


def test_an_empty_class_folder_is_refused(pair: Path) -> None:
    (pair / "triangle").mkdir()
    with pytest.raises(DatasetError, match="no readable training image of class triangle"):
        read(pair)


def test_an_empty_test_folder_is_refused(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    folder = make_folder(tmp_path / "data", {"train/a": 5, "train/b": 5})
    (folder / "test").mkdir()
    with pytest.raises(DatasetError, match="test folder"):
        read(folder)


def test_images_outside_the_classes_are_named(pair: Path, encoded: bytes) -> None:
    (pair / "loose.png").write_bytes(encoded)
    assert read(pair).unreadable == (("loose.png", "outside the folders of the classes"),)


def test_the_reason_is_given_where_a_whole_class_is_unreadable(pair: Path) -> None:
    for path in (pair / "circle").iterdir():
        path.write_text("no image")
    with pytest.raises(DatasetError, match=r"of class circle; circle/.*not an image"):
        read(pair)


# --- the same image twice -------------------------------------------------------------------------


def test_test_images_that_are_training_images_are_named(split_pair: Path, tmp_path: Path) -> None:
    assert read(split_pair).duplicates == ()
    for name, twin in (("test/a/001", "train/b/004"), ("test/b/002", "train/a/000")):
        with Image.open(split_pair / f"{twin}.png") as image:
            image.save(split_pair / f"{name}.bmp")  # other bytes, the same pixels
    twins = (("test/a/001.bmp", "train/b/004.png"), ("test/b/002.bmp", "train/a/000.png"))
    for _ in range(2):  # decoded, then from the cache
        assert read(split_pair).duplicates == twins


def test_duplicates_within_a_split_are_no_matter(split_pair: Path) -> None:
    for split in ("train", "test"):
        data = (split_pair / split / "a" / "000.png").read_bytes()
        (split_pair / split / "b" / "copy.png").write_bytes(data)
    assert read(split_pair).duplicates == ()


def test_duplicates_are_found_where_the_split_is_drawn(pair: Path) -> None:
    for file in (pair / "circle").iterdir():
        (pair / "circle" / f"copy {file.name}").write_bytes(file.read_bytes())
    dataset = read(pair)
    assert dataset.duplicates
    in_test = {dataset.names[index] for index in dataset.test}
    for name, twin in dataset.duplicates:
        assert name in in_test
        assert twin not in in_test
        assert name.removeprefix("circle/copy ") == twin.removeprefix("circle/") or (
            name.removeprefix("circle/") == twin.removeprefix("circle/copy ")
        )


# --- more than memory -----------------------------------------------------------------------------

BEYOND_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from nin_edge.data.datasets import open_dataset

def main():
    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    limit = int(status.split()[0]) * 1024 + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for attempt in range(2):  # decoded, then from the cache
        data = open_dataset(Path(sys.argv[1]), size=256, workers=2, cache=Path(sys.argv[2]))
        total = 0
        for start in range(0, len(data.images), 50):
            total += int(data.images[np.arange(start, min(start + 50, len(data.images)))].sum())
    print(data.images.nbytes, len(data.duplicates), total)
    try:
        np.ones(data.images.nbytes, np.uint8)
    except MemoryError:
        print("the limit holds")

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_data_set_larger_than_memory_is_decoded_and_read(tmp_path: Path) -> None:
    # RLIMIT_DATA counts what a process allocates, and not the mapped cache, whose pages the kernel
    # takes back when memory is short; RLIMIT_AS would count the mapping as if it were memory.
    headroom = 96 << 20  # bytes: half of the cache
    photo = Image.effect_noise((300, 256), 60).convert("RGB")
    for index in range(1000):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo.putpixel((150, 128), (index % 256, index // 256, 0))
        photo.save(folder / f"{index:04}.bmp")
    script = tmp_path / "script.py"
    script.write_text(BEYOND_MEMORY)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "photos", tmp_path / "cache", str(headroom)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    size, duplicates, total = map(int, first.split())
    assert size == 1000 * 256 * 256 * 3
    assert size > 1.9 * headroom
    assert (duplicates, total > 0) == (0, True)
    assert second == "the limit holds"
