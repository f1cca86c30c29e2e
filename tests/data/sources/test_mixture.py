import json
import os
import tarfile
import tracemalloc
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import files
from videomae_fast.data import (
    Annotations,
    ClipDataset,
    FrameFolder,
    Mixture,
    TarMember,
    VideoFile,
    VideoSource,
    collate,
    make_loader,
    read_mixture,
)
from videomae_fast.data.loader import StepSampler
from videomae_fast.data.seeding import epoch_rng, pass_rng


def source(name: str, videos: int, weight: float = 1.0, **options: object) -> VideoSource:
    annotations = Annotations([VideoFile(f"{name}{i}.mp4") for i in range(videos)])
    return VideoSource(annotations, weight, **options)  # type: ignore[arg-type]


MIXTURE = Mixture([source("a", 10), source("b", 7, 2), source("c", 12, 0.25), source("d", 5, 1.3)])


def test_videos_are_numbered_through() -> None:
    assert len(MIXTURE) == 34 and MIXTURE.epoch_length == 10 + 14 + 3 + 6
    names = [MIXTURE[index].path for index in range(34)]
    assert names == [f"{s}{i}.mp4" for s, n in (("a", 10), ("b", 7), ("c", 12), ("d", 5)) for i in range(n)]
    assert [MIXTURE.sources.index(MIXTURE.source(index)) for index in (0, 9, 10, 16, 17, 28, 29, 33)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3)
    ]
    for index in (34, -1):
        with pytest.raises(IndexError, match="out of range for 34 videos"):
            MIXTURE[index]


def test_every_video_comes_as_often_as_its_weight_says() -> None:
    """Over 20 epochs each video of a source comes weight x 20 times, give or take the pass that is under way."""
    counts = Counter(int(video) for epoch in range(20) for video in MIXTURE.order(3, epoch))
    shares = [Counter(counts[i] for i in numbers) for numbers in (range(10), range(10, 17), range(17, 29))]
    assert shares == [Counter({20: 10}), Counter({40: 7}), Counter({5: 12})]
    assert {counts[i] for i in range(29, 34)} <= {24, 25} and sum(counts.values()) == 20 * MIXTURE.epoch_length


def test_passes_are_shuffled_and_do_not_repeat() -> None:
    only = Mixture([source("c", 12, 0.25)])
    epochs = [only.order(0, epoch).tolist() for epoch in range(8)]
    first, second = list(chain(*epochs[:4])), list(chain(*epochs[4:]))
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert first != list(range(12))


@pytest.mark.parametrize("weights", [(1,), (0.3,), (2.7,), (1, 0.4, 3)])
def test_order_is_permutations_of_passes_and_of_the_epoch(weights: tuple[float, ...]) -> None:
    """Drawn in place, it is what permutations of numbers would give."""
    mixture = Mixture([source(str(number), 11 + number, weight) for number, weight in enumerate(weights)])
    for epoch in range(5):
        drawn, first = [], 0
        for number, each in enumerate(mixture.sources):
            size = len(each.annotations)
            places = range(epoch * each.epoch_length, (epoch + 1) * each.epoch_length)
            passes = {place // size: pass_rng(7, place // size, number).permutation(size) for place in places}
            drawn += [first + passes[place // size][place % size] for place in places]
            first += size
        expected = np.array(drawn)[epoch_rng(7, epoch).permutation(mixture.epoch_length)]
        np.testing.assert_array_equal(mixture.order(7, epoch), expected)


def test_order_takes_four_bytes_a_video() -> None:
    mixture = Mixture([source("a", 5000), source("b", 3000, 0.5)])
    tracemalloc.start()
    try:
        order = mixture.order(0, 1)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(order) == 6500 and held < 6500 * 4 + 3000 and peak < 6500 * 4 + 3000 * 4 + 3000


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): MIXTURE.order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 1000)}
    assert len({tuple(order) for order in orders.values()}) == 6
    for (seed, epoch), order in reversed(orders.items()):
        np.testing.assert_array_equal(MIXTURE.order(seed, epoch), order)
    first = [MIXTURE.sources.index(MIXTURE.source(int(video))) for video in orders[0, 0]]
    assert first != sorted(first)  # sources are shuffled together


def test_fingerprint_tells_what_would_be_drawn() -> None:
    def fingerprint(*names: str, root: str = "", **options: Any) -> str:
        return Mixture([VideoSource(Annotations([VideoFile(n) for n in names], root), **options)]).fingerprint()

    names = ("a/1.mp4", "b/1.mp4", "b/2.mp4")
    moved = fingerprint(*(f"/far/away/{name}" for name in names)), fingerprint(*names, root="/elsewhere")
    same = {fingerprint(*names), fingerprint(*names, weight=1.0), *moved}
    assert len(same) == 1
    others = [
        fingerprint("b/1.mp4", "a/1.mp4", "b/2.mp4"),
        fingerprint("a/1.mp4", "c/1.mp4", "b/2.mp4"),
        fingerprint("a/1.mp4", "b/1.mp4"),
        fingerprint(*names, weight=2),
        fingerprint(*names, frame_stride=4),
        fingerprint(*names, hflip=False),
    ]
    assert len(same.union(others)) == 7
    shards = [Annotations([TarMember("a.tar", member, 512, 9)]).fingerprint() for member in ("x.mp4", "y.mp4")]
    assert shards[0] != shards[1]


def test_ranks_share_an_epoch_without_overlap_and_resume_exactly() -> None:
    whole = list(StepSampler(MIXTURE, 6, seed=1, num_steps=14))
    ranks = [list(StepSampler(MIXTURE, 2, 1, rank, 3, num_steps=14)) for rank in range(3)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole
    numbers = [number for step in whole for _, number in step]
    assert len(set(numbers)) == len(numbers)
    for start in (1, 5, 6, 11):
        assert list(StepSampler(MIXTURE, 6, 1, start_step=start, num_steps=14 - start)) == whole[start:]


def test_each_source_has_its_stride_and_template(tmp_path: Path) -> None:
    files.write_video(tmp_path / "a.mp4")
    annotations = Annotations([VideoFile(str(tmp_path / "a.mp4"))])
    images = Annotations([FrameFolder(str(tmp_path), 0, 60)])
    for number, image in enumerate(files.sequential(tmp_path / "a.mp4")):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    sources = [VideoSource(annotations), VideoSource(annotations, frame_stride=5), VideoSource(images, 1, 3, "{}.png")]
    dataset = ClipDataset(Mixture(sources), num_frames=4, frame_stride=2, size=(16, 16), crops_per_video=1, seed=0)
    for index, stride in enumerate((2, 5, 3)):
        stamps = [files.stamp(frame.numpy()) for frame in dataset.draw(index, 0).frames]
        assert np.diff(stamps).tolist() == [stride] * 3


def test_each_source_has_its_flips(clips: Path, tmp_path: Path) -> None:
    """As where left and right matter: Something-Something among other videos. No source flips for a run without."""
    (tmp_path / "list.txt").write_text(f"{clips / 'h264.mp4'}\n")
    shared = {"data": "list.txt"}
    listed = [shared, shared | {"hflip": False}, shared | {"hflip": True}]
    mixture = read_mixture(write(tmp_path / "mixture.json", listed))
    sizes: dict[str, Any] = {"num_frames": 1, "frame_stride": 1, "size": (16, 16), "crops_per_video": 40, "seed": 0}
    for hflip in (False, True):
        dataset = ClipDataset(mixture, hflip=hflip, **sizes)
        flips = [sum(crop.flipped for crop in dataset.draw(index, 0).crops) for index in range(3)]
        assert flips[1] == 0 and flips[0] == flips[2] and (0 < flips[2] < 40 if hflip else flips[2] == 0)


def test_batches_of_a_mixture_are_the_same_for_workers_ranks_and_after_a_stop(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for number in range(3):
            shard.add(clips / "h264.mp4", arcname=f"{number}.mp4")
    listed = [{"data": str(clips), "weight": 0.5}, {"data": "a.tar", "weight": 2, "frame_stride": 3}]
    mixture = read_mixture(write(tmp_path / "mixture.json", listed))
    dataset = ClipDataset(mixture, num_frames=2, frame_stride=2, size=(16, 16), crops_per_video=1, seed=0)
    assert len(dataset) == 4 + 6
    whole = list(make_loader(dataset, 4, num_steps=5))  # two steps an epoch
    resumed = list(make_loader(dataset, 4, workers=2, start_step=2, num_steps=3))
    ranks = [list(make_loader(dataset, 2, rank=rank, world_size=2, num_steps=5)) for rank in range(2)]
    for batch, again in zip(whole[2:], resumed, strict=True):
        assert torch.equal(batch.clips.frames, again.clips.frames) and torch.equal(batch.sample, again.sample)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.clips.frames, collate(parts).clips.frames) and not batch.bad_videos


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x/1.mp4", "x/2.mp4", "y/3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "y.csv").write_text("3.mp4 0 -1\n")
    return tmp_path


def test_mixture_file(folder: Path) -> None:
    listed = [
        {"data": "x"},
        {"data": "y.csv", "root": "y", "format": "v2", "weight": 3, "frame_stride": 2, "template": "{:03}.png"},
    ]
    mixture = read_mixture(write(folder / "mixture.json", listed))
    assert [entry.path for entry in mixture] == [str(folder / name) for name in ("x/1.mp4", "x/2.mp4", "y/3.mp4")]
    first, second = mixture.sources
    assert (first.weight, first.frame_stride, first.template) == (1.0, None, "img_{:05}.jpg")
    assert (second.weight, second.frame_stride, second.template) == (3, 2, "{:03}.png")
    assert mixture.epoch_length == 5


def test_one_source(folder: Path) -> None:
    assert len(read_mixture(folder / "x")) == 2
    assert [entry.path for entry in read_mixture(folder / "y.csv", folder / "y", "v2")] == [str(folder / "y/3.mp4")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must be a list of sources, got dict"),
        ([], "must be a list of sources"),
        ([3], r"source 1 must be an object with \"data\", got 3"),
        ([{"data": "x"}, {"weight": 1}], r"source 2 must be an object with \"data\""),
        ([{"data": "x", "wieght": 1}], "source 1: unknown key 'wieght'; known are data, root"),
        ([{"data": "x", "weight": "2"}], "source 1: weight has the wrong type, got '2'"),
        ([{"data": "x", "frame_stride": True}], "source 1: frame_stride has the wrong type"),
        ([{"data": "x", "hflip": 0}], "source 1: hflip has the wrong type, got 0"),
        ([{"data": "x", "weight": 0}], "source 1: weight must be positive and finite, got 0"),
        ([{"data": "x", "frame_stride": 0}], "source 1: frame_stride must be at least 1 and at most 2147483648, got 0"),
        ([{"data": "x", "template": "a.jpg"}], "source 1: template must have one place"),
        ([{"data": "x", "template": "{}{}.jpg"}], "source 1: template must have one place"),
        ([{"data": "x", "weight": 10**400}], r"source 1: weight must give an epoch .* got 1000.*\.\.\. for 2 videos"),
        ([{"data": "x", "weight": 1e12}], "source 1: weight must give an epoch of at most 4294967296 samples"),
        ([{"data": "x", "weight": 1e308}], "source 1: weight must give an epoch"),
        ([{"data": "x", "weight": -(10**400)}], "source 1: weight must be positive"),
        ([{"data": "x", "weight": 1.2e9}, {"data": "x", "weight": 1.2e9}], "an epoch may have 4294967296 samples"),
        ([{"data": "x", "weight": float("nan")}], "NaN is no number of JSON"),
        ([{"data": "x", "weight": float("inf")}], "Infinity is no number of JSON"),
        ([{"data": "x", "frame_stride": 10**400}], r"source 1: frame_stride must be at least 1 and at most .*\.\.\."),
        ([{"data": "x", "template": 100 * "\x1b"}], r"source 1: template must have one place .*\.\.\.$"),
        ([{"data": "\0"}], r"source 1: annotations: there is no list file and no folder at .*\\x00"),
        ([{"data": "\ud800"}], r"source 1: annotations: there is no list file and no folder at .*\\ud800"),
        ([{"data": "a" * 300}], "source 1: annotations: there is no list file"),
        ([{"data": "y.csv", "root": "\0"}], "source 1: none of the first 1 entries"),
        ([{"data": "gone"}], "source 1: annotations: there is no list file"),
        ([{"data": "x", "root": "y"}], "source 1: root and list_format describe list files"),
    ],
)
def test_bad_mixture_files(folder: Path, content: object, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_mixture(write(folder / "mixture.json", content))


@pytest.mark.parametrize(
    "template",
    [
        *(
            "",
            "a.jpg",
            "{",
            "}",
            "{}{}",
            "{}{0}",
            "{a}",
            "{1}",
            "{0.__class__}",
            "{0[0]}",
            "{.real}",
            "{!r}",
            "{!s:>5}",
        ),
        *("{:{}}", "{:9999999999}", "{:256}", "{:0256d}", "{:.5}", "{:x}", "{:,}", "{:n}", "{:c}", "{:-<5}", "{:٣}"),
        *("../{}.jpg", "a/../../{}.jpg", "/{}.jpg", "..", "{}/..", "{}\0.jpg"),
    ],
)
def test_templates_that_are_none(template: str) -> None:
    with pytest.raises(ValueError, match=r"template must have one place for the frame's number, as .* has, and name"):
        source("a", 1, template=template)


@pytest.mark.parametrize(
    "template",
    ["{}", "{0}", "{:5}", "{:05}.jpg", "{:05d}", "{0:08}", "{:0>5}", "{:0=5d}", "{:d}", "{{{}}}", "a/{}.b", "..{}"],
)
def test_templates(template: str) -> None:
    assert source("a", 1, template=template).template == template


def test_mixture_files_from_strangers(folder: Path) -> None:
    path = folder / "mixture.json"
    for text, message in (
        ("[" * 100_000, "mixture.json is not JSON: its lists or objects are nested too deep"),
        ('[{"data":' * 50_000, "nested too deep"),
        ('[{"data": "x", "weight": 1, "weight": 2}]', "mixture.json is not JSON: the key 'weight' comes twice"),
        ('[{"data": "x", "weight": ' + "9" * 5000 + "}]", r"mixture.json(, source 1| is not JSON): "),
        (f'[{{"data": {"[" * 400}{"]" * 400}}}]', r"source 1: data has the wrong type, got \[\["),
        ('[{"data": "x", "\\u001b[2J": 1}]', r"unknown key '\\x1b\[2J'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            read_mixture(path)
        assert len(str(error.value)) < 1000 and str(error.value).isprintable()
    for data in (b"\xff\xfe[", b"\x1f\x8b", b"", b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"mixture.json is not JSON"):
            read_mixture(path)
    with pytest.raises(FileNotFoundError, match=r"there is no mixture file at .*gone.json"):
        read_mixture(folder / "gone.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_no_mixture_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mixture.json")
    with pytest.raises(ValueError, match=r"mixture.json is not JSON: it is not a regular file"):
        read_mixture(tmp_path / "mixture.json")


def test_more_errors(folder: Path) -> None:
    (folder / "mixture.json").write_text("[{]")
    with pytest.raises(ValueError, match=r"mixture.json is not JSON"):
        read_mixture(folder / "mixture.json")
    with pytest.raises(ValueError, match=r"for each source in .*leave them out"):
        read_mixture(folder / "mixture.json", root=folder)
    with pytest.raises(ValueError, match="at least one source"):
        Mixture([])
