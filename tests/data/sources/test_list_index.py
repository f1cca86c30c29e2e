"""A list that has an index holds the same videos as one that is read, until the index is built anew."""

import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videomae_fast._files import cache_folder
from videomae_fast.data import (
    Annotations,
    CaptionedVideos,
    number_classes,
    read_annotations,
    read_captions,
    read_mixture,
)
from videomae_fast.data.sources import columns, list_index

TWO = "one.mp4 0 -1\ntwo.mp4 0 -1\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, where every list has an index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(list_index, "LEAST_BYTES", 0)
    return cache_folder("lists")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of some files, empty but for two tar files."""
    folder = tmp_path / "videos"
    (folder / "frames").mkdir(parents=True)
    for name in ("one.mp4", "two.mp4", "a b.mp4", "é.jpg", os.fsdecode(b"\xff.mp4")):
        (folder / name).touch()
    write_tar(folder / "x.tar", "riding/1.mp4", "riding/2.mp4")
    write_tar(folder / "y.tar", "walking/3.mp4")
    return folder


def write_tar(path: Path, *members: str) -> None:
    with tarfile.open(path, "w") as tar:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = 7
            tar.addfile(info, _Zeros())


class _Zeros:
    def read(self, size: int) -> bytes:
        return bytes(size)


def write(root: Path, text: str, name: str = "list.txt") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def both(monkeypatch: pytest.MonkeyPatch, read: Callable[[], Annotations]) -> tuple[Annotations, Annotations]:
    """What is read without an index, and what is read with one."""
    with monkeypatch.context() as patch:
        patch.setattr(list_index, "LEAST_BYTES", 1 << 40)
        plain = read()
    assert plain.columns.folder is None
    found = read()
    assert found.columns.folder is not None
    return plain, found


LISTS = {
    "v2": ("one.mp4 0 -1\nframes 3 20\ntwo.mp4 5 -2\n", {}),
    "v2 with labels": ("one.mp4 0 -1 3\ntwo.mp4 0 -1 -5\nframes 1 20 0\n", {}),
    "v1": ("one.mp4 3\ntwo.mp4 3\n", {"labelled": True}),
    "v1 with names": ('one.mp4 "walking"\n"a b.mp4" riding a bike\ntwo.mp4 walking\n', {"labelled": True}),
    "frames": ("frames 20 1\nframes 30 0\n", {"labelled": True}),
    "csv": ('one.mp4,"x, y"\n"a b.mp4",a\n', {"labelled": True}),
    "paths": (f"one.mp4\na b.mp4\n{os.fsdecode(bytes([255]))}.mp4\n", {"list_format": "paths"}),
    "tar files": ("x.tar\none.mp4\ny.tar\n", {}),
    "tar files of classes": ("x.tar\ny.tar\n", {"labelled": True}),
    "many": ("".join(f"one.mp4 {number % 7} -1 {number % 2000}\n" for number in range(2500)), {}),
}


@pytest.mark.parametrize("name", LISTS)
def test_an_index_holds_what_the_list_holds(
    name: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    text, options = LISTS[name]
    path = write(root, text)
    plain, found = both(monkeypatch, lambda: read_annotations(path, **options))
    assert list(found) == list(plain) and found.class_names == plain.class_names
    assert found.fingerprint() == plain.fingerprint() and found.has_labels == plain.has_labels
    np.testing.assert_array_equal(found.labels, plain.labels)
    said = capsys.readouterr().err
    assert said.startswith(f"index of {path}: {len(plain)} videos, built in ") and said.count("\n") == 1
    again = read_annotations(path, **options)
    assert list(again) == list(plain) and capsys.readouterr().err == ""
    sent = pickle.dumps(again)
    assert len(sent) < 1500 and list(pickle.loads(sent)) == list(plain)
    assert pickle.loads(sent).fingerprint() == plain.fingerprint()


def test_classes_are_numbered_without_a_copy(root: Path, cache: Path) -> None:
    """The labels in the files stay as they are."""
    path = write(root, "one.mp4 walking\ntwo.mp4 riding\na.mp4 walking\n")
    numbered = number_classes(read_mixture(path, labelled=True), ("walking", "none", "riding"), allow_empty=True)
    assert numbered.labels.tolist() == [0, 2, 0] and [numbered[k].label for k in range(3)] == [0, 2, 0]
    assert len(pickle.dumps(numbered)) < 2500
    numbers = write(root, "one.mp4 1\ntwo.mp4 0\n", "numbers.txt")
    again = read_annotations(numbers, labelled=True).numbered_by(("a", "b")).numbered_by(("b", "a"))
    assert again.labels.tolist() == [0, 1] and again[0].label == 0
    with pytest.raises(ValueError, match=r"one.mp4 has class 'b', which is none of the 1 classes"):
        again.numbered_by(("a",))


CAPTIONS = "".join(
    f'{{"path": "{("one.mp4", "é.jpg", "two.mp4")[number % 3]}", "caption": ["c{number}", "d{"ä" * (number % 5)}"]'
    f"{', ' + chr(34) + 'start' + chr(34) + ': 1.5' if number % 3 == 2 else ''}}}\n"
    for number in range(1500)
)
CAPTIONED = {
    "videos and images": ("l.jsonl", CAPTIONS),
    "videos": ("l.csv", "path,caption,caption\none.mp4,a,\ntwo.mp4,b,c\n"),
    "images": ("l.tsv", "path\tcaption\né.jpg\ta\n"),
}


@pytest.mark.parametrize("name", CAPTIONED)
def test_an_index_holds_captions(name: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, text = CAPTIONED[name]
    path = write(root, text, file)
    plain, found = both(monkeypatch, lambda: read_captions(path))
    assert isinstance(plain, CaptionedVideos) and isinstance(found, CaptionedVideos)
    for kinds in ((plain, found), *((plain.of_kind(images), found.of_kind(images)) for images in (False, True))):
        entries, indexed = ([each.captioned(number) for number in range(len(each))] for each in kinds)
        alone = CaptionedVideos([each._replace(video=each.video._replace(path=each.video.path)) for each in entries])
        assert indexed == entries and kinds[1].fingerprint() == kinds[0].fingerprint() == alone.fingerprint()
        assert [entry.is_image for entry in entries] == kinds[1].is_image.tolist()
        assert [len(entry.captions) for entry in entries] == kinds[1].num_captions.tolist()
        sent = pickle.dumps(kinds[1])
        back = pickle.loads(sent)
        assert [back.captioned(number) for number in range(len(back))] == entries
        assert len(sent) < 2500
    both_kinds = len(found.of_kind(False)) + len(found.of_kind(True))
    assert both_kinds == len(found) and len(found.of_kind(False).of_kind(True)) == 0


def index_of(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


def change_list(path: Path, index: Path) -> None:
    path.write_text(TWO.replace("two", "six"))
    os.utime(path, ns=(0, 12345))


def touch_list(path: Path, index: Path) -> None:
    os.utime(path, ns=(0, 12345))


def change_tar(path: Path, index: Path) -> None:
    write_tar(path.parent / "x.tar", *(f"riding/{number}.mp4" for number in range(30)))


def set_content(index: Path, **changes: object) -> None:
    content = json.loads((index / "index.json").read_text())["content"] | changes
    (index / "index.json").write_text(json.dumps({"crc32": columns._crc32_of(content), "content": content}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


CHANGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another list": (change_list, "the list changed"),
    "a list with another time": (touch_list, "the list changed"),
    "another tar file": (change_tar, "x.tar changed"),
    "an older format": (lambda path, index: set_content(index, format=0), "it has format 0, and this version reads 1"),
    "index.json cut": (lambda path, index: cut(index / "index.json"), "index.json is damaged"),
    "index.json flipped": (lambda path, index: flip(index / "index.json", 60), "index.json is damaged"),
    "index.json no object": (lambda path, index: (index / "index.json").write_text("[]"), "index.json is damaged"),
    "index.json gone": (lambda path, index: (index / "index.json").unlink(), "index.json is missing"),
    "no header": (lambda path, index: (index / "end.npy").write_bytes(b"abc"), "end.npy is damaged: "),
    "another array": (lambda path, index: np.save(index / "end.npy", np.zeros(3)), "end.npy is damaged: it holds <f8"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_is_built_again(
    name: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    change, reason = CHANGES[name]
    path = write(root, TWO + "x.tar 0 -1\n")
    assert len(read_annotations(path)) == 4
    change(path, index_of(cache))
    capsys.readouterr()
    plain, found = both(monkeypatch, lambda: read_annotations(path))
    said = capsys.readouterr().err
    assert f"again because {reason}" in said and said.count("\n") == 1
    assert list(found) == list(plain)
    read_annotations(path)
    assert capsys.readouterr().err == "" and len(list(cache.iterdir())) == 2  # the index and its lock


FILES = ("caption_end", "clip_end", "clip_start", "end", "images", "is_image", "label", "member_bytes", "name")
FILES += ("size", "start", "text", "text_end", "total", "videos")


def test_damage_of_every_file_is_noticed(root: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(root, "".join(CAPTIONS.splitlines(keepends=True)[:9]), "l.jsonl")
    expected = read_captions(path).captioned(7)
    index = index_of(cache)
    assert sorted(file.stem for file in index.glob("*.npy")) == sorted(FILES)
    for name in FILES:
        for damage, reason in ((flip, "damaged"), (cut, "damaged: "), (Path.unlink, "missing")):
            damage(index / f"{name}.npy")
            capsys.readouterr()
            assert read_captions(path).captioned(7) == expected
            assert f"again because {name}.npy is {reason}" in capsys.readouterr().err


def test_options_have_indexes_of_their_own(root: Path, cache: Path) -> None:
    path = write(root, "one.mp4 1 20\n")
    (root / "other").mkdir()
    shutil.copy(root / "one.mp4", root / "other")
    for options in ({}, {"list_format": "paths"}, {"list_format": "v2"}, {"root": root / "other"}):
        if options == {"list_format": "paths"}:
            (root / "one.mp4 1 20").touch()
        read = read_annotations(path, **options)
        assert read.columns.folder is not None and len(read) == 1
    assert len(list(cache.glob("*.lock"))) == 4


def test_a_short_list_has_no_index(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tar files that its first lines name count."""
    path = write(root, "x.tar\n")
    for least, has_one in ((path.stat().st_size + (root / "x.tar").stat().st_size, True), (10**9, False)):
        monkeypatch.setattr(list_index, "LEAST_BYTES", least)
        assert (read_annotations(path).columns.folder is not None) == has_one


def test_folders_and_tar_files_have_no_index(root: Path, cache: Path) -> None:
    assert read_annotations(root).columns.folder is None
    assert read_annotations(root / "x.tar").columns.folder is None and not cache.exists()


def test_an_error_of_the_list_is_its_own(root: Path, cache: Path) -> None:
    """It comes as without an index, and leaves nothing behind."""
    for text, message in (
        (TWO + "a.mp4 x y\n", r"list.txt:3: expected 'path start total'"),
        ("z.mp4 0 -1\n", "none of"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_annotations(write(root, text))
    with pytest.raises(FileNotFoundError, match=r"gone\.tar"):
        read_annotations(write(root, TWO + "gone.tar 0 -1\n"))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "cache").write_text("")  # a file where a folder is needed
    path = write(root, TWO)
    read = read_annotations(path)
    said = capsys.readouterr().err
    assert len(read) == 2 and read.columns.folder is None
    assert said.startswith(f"index of {path}: 2 videos, held in the memory of each process: it cannot be written: ")


def test_a_full_disk_while_building(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(self: object, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns._Array, "_write_header", full)
    read = read_annotations(write(root, TWO))
    assert len(read) == 2 and "No space left on device" in capsys.readouterr().err
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_one_process_builds_and_others_wait(root: Path, cache: Path, capfd: pytest.CaptureFixture) -> None:
    path = write(root, "".join(f"one.mp4 0 -1 {number}\n" for number in range(30000)))
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    processes = [fork.Process(target=lambda: found.put(read_annotations(path).fingerprint())) for _ in range(2)]
    for process in processes:
        process.start()
    assert found.get(timeout=60) == found.get(timeout=60) == read_annotations(path).fingerprint()
    for process in processes:
        process.join()
    said = capfd.readouterr().err
    assert said.count("30000 videos, built in") == 1 and said.count("another process builds it") <= 1


def test_an_index_that_is_replaced_stays_open(root: Path, cache: Path) -> None:
    """Whoever has opened it keeps its columns, but a worker that would open it by its path is told."""
    path = write(root, TWO)
    read = read_annotations(path)
    expected, sent = list(read), pickle.dumps(read)
    change_list(path, cache)
    other = read_annotations(path)
    assert list(read) == expected != list(other)
    with pytest.raises(columns.ColumnsError, match="was built anew while it was in use: start again"):
        pickle.loads(sent)


def test_a_partial_folder_of_a_killed_process_is_removed(root: Path, cache: Path) -> None:
    path = write(root, TWO)
    read_annotations(path)
    index = index_of(cache)
    left, begun = (cache / f".{index.name}.{name}" for name in ("left", "begun"))
    for folder in (left, begun):
        folder.mkdir()
    os.utime(left, (0, 0))  # the other may be of a process on another machine
    shutil.rmtree(index)
    read_annotations(path)
    assert sorted(cache.iterdir()) == sorted([begun, index, index.with_suffix(".lock")])


def private_kib() -> int:
    """Memory that this process has for itself and has written, by Linux."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="memory as Linux tells it")
def test_a_list_of_1_350_000_videos_opens_at_once_and_grows_no_process(root: Path, cache: Path) -> None:
    """As many as VideoMAE V2's pre-training has. Time is that of the processor: other tests run at the same time."""
    count = 1_350_000
    path = root / "list.txt"
    with open(path, "w") as file:
        file.write("one.mp4\n")
        file.writelines(f"k400/class/video_{number:09}.mp4\n" for number in range(1, count))
    read_annotations(path, list_format="paths")
    before, begun = private_kib(), time.process_time()
    read = read_annotations(path, list_format="paths")
    seconds = time.process_time() - begun
    sent = pickle.dumps(read)
    worker = pickle.loads(sent)  # what a process that is spawned does
    for number in range(0, count, 100):
        assert worker[number].name == read[number].name
    assert len(read) == count and read[count - 1].path.endswith("video_001349999.mp4")
    assert seconds <= 0.5 and private_kib() - before <= 50 * 1024 and len(sent) < 1500
