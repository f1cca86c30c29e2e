"""The evaluate suite: the same views and windows, checked first, all frames and bytes counted."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.baselines.published.views import published_tensor
from benchmarks.baselines.published.windows import published_windows
from benchmarks.evaluate import views as module
from benchmarks.evaluate import windows as windows_module
from benchmarks.evaluate.contenders import Contenders, counters, figures
from benchmarks.evaluate.test_evaluate import parametrize
from benchmarks.evaluate.videos import opened
from benchmarks.evaluate.views import OURS, PUBLISHED, VARIANTS, ViewCase
from benchmarks.evaluate.windows import WindowCase
from benchmarks.harness.run import DisagreementError
from benchmarks.settings import Settings
from tests.data.files import write_video
from videomae_fast.data import ViewDataset
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 60 frames."""
    folder = tmp_path_factory.mktemp("own")
    write_video(folder / "one.mp4", num_frames=60, height=48, width=64)
    write_video(folder / "two.mp4", num_frames=60, height=64, width=48)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of 8 frames of 32x32."""
    config = replace(module.CONFIG, num_frames=8, image_size=(32, 32), patch_size=8)
    monkeypatch.setattr(module, "CONFIG", config)
    monkeypatch.setattr(module, "SHORT_SIDE", 32)
    monkeypatch.setattr(windows_module, "SIZE", (32, 24))


def settings(**options: object) -> Settings:
    return Settings(Namespace(**{"rounds": None, "videos": None} | options))


def test_cases() -> None:
    _, rows, ids = parametrize(settings(rounds=2))
    assert len(set(ids)) == len(rows) == 4 * 2 * len(VARIANTS)
    cases = dict.fromkeys(row[0] for row in rows)
    assert [case.name for case in cases] == ["340x256", "1280x720"] * 2
    assert [str(case) for case in cases][1:3] == [
        "5x3 views of each video, 8x32x32",
        "windows of 16x32x24, 4 frames apart",
    ]


def test_own_videos_replace_the_others(own: Path) -> None:
    _, rows, _ = parametrize(settings(videos=own))
    assert {row[0] for row in rows} == {ViewCase(own.name, 3, own), WindowCase(own.name, 3, own)}


def test_views_agree(own: Path, tmp_path: Path) -> None:
    error = ViewCase("own", 1, own).check(tmp_path)
    assert error["pixels"] <= 1.05 and error["logits"] < 1e-5


def test_other_views_are_no_agreement(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = ViewDataset.decode

    def later(self: ViewDataset, index: int) -> tuple[np.ndarray, torch.Tensor]:
        places, frames = decode(self, index)
        return np.minimum(places + 1, len(frames) - 1), frames

    monkeypatch.setattr(ViewDataset, "decode", later)
    with pytest.raises(DisagreementError, match=r"views and the published ones disagree.*'pixels': \d+"):
        ViewCase("own", 1, own).check(tmp_path)


def test_frames_and_bytes_of_views(own: Path, tmp_path: Path) -> None:
    """60 frames are 15 at stride 4, all of which segments touch; the published code reads them for each of 15 views."""
    case, contenders = ViewCase("own", 1, own), Contenders(tmp_path)
    found = {}
    for name in VARIANTS:
        maker, record = contenders.ready(case, name)
        assert (record["suite"], record["name"], "error" in record) == ("evaluate", "own", name == OURS)
        maker()
        before = counters(maker)
        maker()
        found[name] = figures(maker, before)
    assert found[PUBLISHED] == {
        "clips": 30,
        "frames_read": 2 * 15 * 15,
        "bytes_to_device_per_clip": 3 * 8 * 32 * 32 * 4,
    }
    assert found[OURS]["clips"] == 30 and found[OURS]["frames_read"] == 2 * 15
    assert found[OURS]["bytes_to_device_per_clip"] > 2 * 15 * 32 * 42 * 3 / 30


def test_unreadable_videos_are_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    maker = ViewCase("bad", 1, tmp_path).maker(OURS, tmp_path)
    with pytest.raises(RuntimeError, match=r"bad\.mp4 cannot be read"):
        maker()


def test_windows(own: Path, tmp_path: Path) -> None:
    """Windows of 16 frames, 4 apart, of 60 frames: 12."""
    case = WindowCase("own", 1, own)
    error = case.check(tmp_path)
    assert error["pixels"] <= 1.05
    found = {}
    for name in VARIANTS:
        maker = case.maker(name, tmp_path)
        maker()
        found[name] = counters(maker)
    assert found[PUBLISHED] == (24, 24 * 16, 24 * 16 * 32 * 24 * 3 * 4)
    assert found[OURS][:2] == (24, 2 * 60)
    assert 2 * 60 * 32 * 24 * 3 <= found[OURS][2] < found[PUBLISHED][2] / 8


def test_other_windows_are_no_agreement(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(*given: Any) -> Iterator[torch.Tensor]:
        return (window.flip(3) for window in published_windows(*given))

    monkeypatch.setattr(windows_module, "published_windows", flipped)
    with pytest.raises(DisagreementError, match=r"windows and the published ones disagree.*'pixels': \d+"):
        WindowCase("own", 1, own).check(tmp_path)


def test_a_video_without_a_window(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", num_frames=9)
    with pytest.raises(ValueError, match=r"short\.mp4 is too short: windows have 16 frames"):
        WindowCase("short", 1, tmp_path).check(tmp_path)


def test_published_tensors_are_normalised() -> None:
    view = np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), dtype=np.uint8)
    expected = (view / 255 - IMAGENET_MEAN) / IMAGENET_STD
    found = published_tensor(view)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(1, 2, 3, 0).numpy(), expected, atol=1e-6)


def test_published_windows_are_not_normalised(own: Path, tmp_path: Path) -> None:
    videos = ViewCase("own", 1, own).videos(tmp_path)
    with opened(videos, 0) as video:
        found = list(published_windows(video, 16, 20, (48, 64)))
        assert len(found) == 3 and found[0].shape == (3, 16, 48, 64)
        frames = torch.from_numpy(video[list(range(40, 56))])
    torch.testing.assert_close(found[2] * 255, frames.permute(3, 0, 1, 2).float())
