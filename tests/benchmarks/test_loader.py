"""The loader suite: the same frames and boxes for both, checked first, all bytes and all parts of the time counted."""

import json
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks.harness.results import compare
from benchmarks.harness.run import DisagreementError, run_suites
from benchmarks.harness.tables import format_results
from benchmarks.loader import contenders as module
from benchmarks.loader.agreement import LIMITS, check_same_pixels, pixels
from benchmarks.loader.contenders import CONFIG, OURS, PARTS, PUBLISHED, VARIANTS, Loader, LoaderCase, LoaderContenders
from benchmarks.loader.finetuning import PILLOW, FinetuningCase
from benchmarks.loader.test_loader import parametrize
from benchmarks.loader.videos import ORIGINAL, SIZES, encode, make_videos
from benchmarks.settings import Settings
from tests.data.files import write_video
from videomae_fast.data import ClipDataset, Crop, CropBox, UnreadableVideosError, cut_clips

PUBLISHED_BYTES = 3 * 16 * 224 * 224 * 4 + 2 * 1568 * 8


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 70 frames, of two sizes."""
    folder = tmp_path_factory.mktemp("own")
    write_video(folder / "small.mp4", num_frames=70)
    write_video(folder / "large.mp4", num_frames=70, height=240, width=320)
    return folder


@pytest.fixture
def case(own: Path) -> LoaderCase:
    return LoaderCase("own", rounds=2, videos=2, crops_per_video=2, own=own)


def settings(**options: object) -> Settings:
    return Settings(Namespace(**{"rounds": None, "batch_size": None, "videos": None} | options))


def test_rows_go_round_by_round() -> None:
    _, rows, ids = parametrize(settings(rounds=3))
    assert len(ids) == len(set(ids)) == len(rows) == 4 * 3 * len(VARIANTS) + 2 * 3 * 3
    first = [row[1:] for row in rows[:6]]
    assert first == [(variant, number) for number in range(3) for variant in VARIANTS]
    assert [(case.name, case.crops_per_video) for case in dict.fromkeys(row[0] for row in rows)] == [
        *((size, 4) for size in SIZES),
        ("340x256", 1),
        ("340x256", 2),
        (ORIGINAL, 2),
    ]
    assert str(rows[0][0]) == "3 batches of 8 videos, 4 crops per video, 16x224x224, av"
    assert str(rows[-1][0]) == "fine-tuning, 3 batches of 4 videos, 2 crops per video, 16x224x224, av"
    assert [row[1:] for row in rows[-3:]] == [("published", 2), ("videomae_fast", 2), ("videomae_fast, pillow", 2)]


def test_own_videos_replace_the_others(own: Path) -> None:
    _, rows, _ = parametrize(settings(videos=own / "list.txt", batch_size=5))
    videos = own / "list.txt"
    assert {case for case, *_ in rows} == {
        LoaderCase("list.txt", 6, 5, 4, videos),
        FinetuningCase("list.txt", 6, 5, 2, videos),
    }


def test_every_round_has_other_clips_and_all_videos_come(case: LoaderCase, tmp_path: Path) -> None:
    dataset = case.dataset(tmp_path, "antialias")
    first, second = case.pairs(dataset, 0), case.pairs(dataset, 1)
    assert [number for _, number in (*first, *second)] == [0, 1, 2, 3]
    assert sorted(index for index, _ in first) == sorted(index for index, _ in second) == [0, 1]


def test_both_make_the_same_clips(case: LoaderCase, tmp_path: Path) -> None:
    for resize, limit in LIMITS.items():
        dataset = case.dataset(tmp_path, resize)
        published, ours = (Loader(name, dataset)(case.pairs(dataset, 0)) for name in VARIANTS)
        assert published.clip.shape == ours.clips.shape == (4, 3, 16, 224, 224)
        assert torch.equal(ours.sample, torch.arange(4))
        assert check_same_pixels(ours.clips, published.clip, CONFIG.patch) <= limit + 1e-3
    published.clip[3, 2, 15, 223, 223] += 4 / 255 / 0.225  # four units of one pixel of the last
    with pytest.raises(
        DisagreementError, match=r"with resize='antialias' pixels differ by \S+ of 255 from the published"
    ):
        check_same_pixels(ours.clips, published.clip, CONFIG.patch)
    with pytest.raises(DisagreementError, match="pixels differ by nan"):
        check_same_pixels(ours.clips, published.clip * torch.nan, CONFIG.patch)


def test_pixels_are_put_back_where_they_came_from() -> None:
    """Crops that need no resize."""
    frames = torch.randint(0, 256, (4, 16, 24, 3), dtype=torch.uint8)
    clips = cut_clips(frames, [Crop(CropBox(0, 0, 8, 16), False), Crop(CropBox(8, 7, 8, 16), False)], (8, 16))
    expected = torch.stack([frames[:, :8, :16], frames[:, 8:, 7:23]]).permute(0, 4, 1, 2, 3).float()
    torch.testing.assert_close(pixels(clips, (2, 4, 2)), expected, atol=1e-4, rtol=0)


def test_bytes(case: LoaderCase, tmp_path: Path) -> None:
    """Ours: the box around both boxes of each video, or both clips; of each clip where that lies, of its rows and
    columns the first tap and the weights, and its sample number."""
    dataset = case.dataset(tmp_path, "antialias")
    pairs = case.pairs(dataset, 0)
    loaders = {name: Loader(name, dataset) for name in VARIANTS}
    batch = [loaders[name](pairs) for name in VARIANTS][1]
    found = {name: loader.figures(case.clips)["bytes_to_device_per_clip"] for name, loader in loaders.items()}
    assert found[PUBLISHED] == PUBLISHED_BYTES
    taps = batch.clips.weights.shape[1]
    assert found[OURS] == batch.clips.frames.numel() / 4 + 10 * 8 + 2 * 224 * (1 + taps) * 4 + 8 and taps == 3
    assert found[OURS] < PUBLISHED_BYTES / 4


def test_parts_of_the_time(case: LoaderCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = case.dataset(tmp_path, "antialias")
    decode = ClipDataset.decode

    def slow(self: ClipDataset, index: int, rng: np.random.Generator) -> torch.Tensor:
        start = time.process_time()
        while time.process_time() < start + 0.3:
            pass
        return decode(self, index, rng)

    monkeypatch.setattr(ClipDataset, "decode", slow)
    loader = Loader(OURS, dataset)
    start = time.process_time()
    loader(case.pairs(dataset, 0))
    total = time.process_time() - start
    (seconds,) = zip(*loader.seconds.values(), strict=True)
    assert seconds[0] >= 0.6 and 0 < seconds[1] < 0.3 and 0 < seconds[2] < 0.3
    assert sum(seconds) == pytest.approx(total, abs=0.05)


def test_figures_are_of_one_clip(case: LoaderCase, tmp_path: Path) -> None:
    loader = Loader(OURS, case.dataset(tmp_path, "antialias"))
    loader.seconds = {part: [0.1 * n, 0.9, 0.001] for n, part in enumerate(PARTS, 1)}
    loader.sent = [10, 20, 60]
    figures = loader.figures(clips=10)
    assert figures == pytest.approx(
        {"decode_ms": 10, "augment_ms": 20, "collate_ms": 30, "bytes_to_device_per_clip": 3}
    )


def test_a_case_is_checked_once_and_before_anything_else(
    case: LoaderCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def check(ours: object, *rest: object) -> float:
        checked.append(ours.resize)  # type: ignore[attr-defined]
        return 0.5

    monkeypatch.setattr(module, "check_same_pixels", check)
    contenders = LoaderContenders(tmp_path)
    records = {name: contenders.ready(case, name)[1] for name in (*VARIANTS, *VARIANTS)}
    assert checked == ["pillow", "antialias"]
    assert records[OURS]["error"] == {"pillow": 0.5, "antialias": 0.5} and "error" not in records[PUBLISHED]
    contenders.ready(replace(case, crops_per_video=1), OURS)
    assert len(checked) == 4


def test_disagreement_leaves_nothing(case: LoaderCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*arguments: object) -> float:
        raise DisagreementError("they disagree")

    monkeypatch.setattr(module, "check_same_pixels", disagree)
    contenders = LoaderContenders(tmp_path)
    for _ in range(2):  # in its second round too
        with pytest.raises(DisagreementError):
            contenders.ready(case, OURS)


def test_a_bad_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    case = LoaderCase("bad", 1, 1, 1, tmp_path)
    dataset = case.dataset(tmp_path, "antialias")
    with pytest.raises(UnreadableVideosError, match=r"bad\.mp4"):
        Loader(OURS, dataset)(case.pairs(dataset, 0))


def test_encoded_once_at_exactly_the_size(own: Path, tmp_path: Path) -> None:
    target = encode(own / "large.mp4", tmp_path / "34x26.mp4", 34, 26)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.average_rate) == ("h264", 34, 26, 25)
        assert len(list(container.decode(stream))) == 70
    written = target.stat().st_mtime_ns
    assert encode(own / "large.mp4", target, 34, 26).stat().st_mtime_ns == written


def test_the_largest_is_the_original(tmp_path: Path) -> None:
    mixture = make_videos(ORIGINAL, tmp_path)
    assert len(mixture) == 1 and not list(tmp_path.iterdir())
    with av.open(mixture[0].path) as container:
        stream = container.streams.video[0]
        assert f"{stream.width}x{stream.height}" == ORIGINAL


@pytest.mark.slow
def test_the_suite(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m benchmarks` runs it, on videos of the user's own."""
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--videos={own}")
    results = run_suites(["loader"], batch_size=2, rounds=3, folder=tmp_path)
    records = results["records"]
    assert [record["variant"] for record in records] == [*VARIANTS, PUBLISHED, OURS, PILLOW]
    assert [record["clips"] for record in records] == [8, 8, 4, 4, 4]
    text = format_results(results)
    assert f"Loading, videos of {own.name}, fine-tuning, 3 batches of 2 videos, 2 crops per video" in text
    assert "with the same draws, pixels of `--augment pillow` equal the published ones" in text
    records = records[:2]
    for record in records:
        assert (record["suite"], record["name"], record["rounds"], record["clips"]) == ("loader", own.name, 3, 8)
        assert record["case"] == "3 batches of 2 videos, 4 crops per video, 16x224x224, av"
        assert record["clips_per_s"] == pytest.approx(8e3 / record["p50_ms"])
        parts = sum(record[f"{part}_ms"] for part in PARTS)
        assert parts == pytest.approx(record["p50_ms"] / 8, rel=0.5)
    published, ours = records
    assert published["bytes_to_device_per_clip"] == PUBLISHED_BYTES > ours["bytes_to_device_per_clip"]
    assert ours["error"]["pillow"] <= 1.001 and 0 < ours["error"]["antialias"] <= 1.501
    assert json.loads(json.dumps(results)) == results and compare(results, results) == []
    assert f"Loading, videos of {own.name}, 3 batches of 2 videos, 4 crops per video" in text
