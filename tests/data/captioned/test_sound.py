"""Captioned clips with their sound: zeros where there is none, another video where it is damaged, and counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sound_files import clicks, write_sound_video
from videomae_fast.data import (
    CaptionCounts,
    CaptionedBatch,
    CaptionedDataset,
    CaptionedEntry,
    CaptionedVideos,
    UnreadableVideosError,
    VideoFile,
    make_captioned_loader,
)
from videomae_fast.data.captioned.batch import collate_captioned
from videomae_fast.data.sound import sound_clip

OPTIONS = {"size": (16, 16), "seed": 3, "num_frames": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with sound, without, and with sound that is damaged; an image."""
    found = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 32000)).astype(np.float32)
    write_sound_video(found / "loud.mkv", noise)
    write_sound_video(found / "clicks.mkv", clicks([0.5], 2.0))
    write_sound_video(found / "mute.mkv", None)
    write_sound_video(found / "bad.mkv", noise, codec="aac", damage=lambda _, data: bytes(255 - each for each in data))
    Image.fromarray(np.full((40, 50, 3), 60, dtype=np.uint8)).save(found / "a.png")
    return found


def entry(folder: Path, name: str) -> CaptionedEntry:
    return CaptionedEntry(VideoFile(str(folder / name)), (f"of {name}",))


def dataset(folder: Path, *names: str, **options: object) -> CaptionedDataset:
    videos = CaptionedVideos([entry(folder, name) for name in names])
    return CaptionedDataset(videos, **{**OPTIONS, "with_sound": True, **options})  # type: ignore[arg-type]


def test_a_sample_has_the_sound_of_its_part(folder: Path) -> None:
    found = dataset(folder, "loud.mkv", "mute.mkv")
    loud, mute = found[0, 7], found[1, 8]
    assert loud.sound is not None and loud.sound.shape == (1, 998, 64) and loud.silent == 0
    assert torch.equal(loud.sound[0], sound_clip(entry(folder, "loud.mkv"), 3, 7).spectrogram)
    assert mute.sound is not None and not mute.sound.any() and mute.silent == 1
    without = dataset(folder, "loud.mkv", with_sound=False)[0, 7]
    assert without.sound is None and without.silent == 0
    assert torch.equal(without.clips.frames, loud.clips.frames)  # the same frames and crops


def test_a_video_with_damaged_sound_is_replaced_and_named(folder: Path) -> None:
    sample = dataset(folder, "bad.mkv", "clicks.mkv")[0, 0]
    assert sample.texts == ("of clicks.mkv",) and sample.silent == 0
    assert [bad.path for bad in sample.bad_videos] == [str(folder / "bad.mkv")]
    assert "cannot decode its sound" in sample.bad_videos[0].reason
    with pytest.raises(UnreadableVideosError, match="cannot decode its sound"):
        dataset(folder, "bad.mkv", max_replacements=0)[0, 0]
    assert dataset(folder, "bad.mkv", with_sound=False)[0, 0].bad_videos == []


def test_images_have_no_sound(folder: Path) -> None:
    assert dataset(folder, "a.png", num_frames=1)[0, 0].sound is None


def test_batches_join_divide_and_count(folder: Path) -> None:
    found = dataset(folder, "loud.mkv", "mute.mkv", "clicks.mkv")
    batch = collate_captioned([found[0, 0], found[1, 1], found[2, 2], found[1, 3]])
    assert batch.sound is not None and batch.sound.shape == (4, 998, 64) and batch.silent == 2
    parts = batch.split(2)
    assert all(isinstance(part, CaptionedBatch) and part.sound is not None for part in parts)
    assert torch.equal(torch.cat([part.sound for part in parts]), batch.sound)  # type: ignore[attr-defined]
    assert [part.silent for part in parts] == [2, 0]  # type: ignore[attr-defined]
    moved = batch.to("meta")
    assert moved.sound is not None and moved.sound.device.type == "meta"
    counts = CaptionCounts()
    counts.add(batch)
    assert counts.report()[-1] == "2 of 4 clips have no sound: zeros were in its place"
    with pytest.raises(ValueError, match="must have sound, or none, got 1 of 2"):
        collate_captioned([found[0, 0], dataset(folder, "loud.mkv", with_sound=False)[0, 0]])


def test_the_loader_brings_sound_from_workers(folder: Path) -> None:
    found = dataset(folder, "loud.mkv", "mute.mkv", "clicks.mkv", "loud.mkv")
    batches = [list(make_captioned_loader(found, None, 2, workers=workers, num_steps=2)) for workers in (0, 1)]
    for own, other in zip(*batches, strict=True):
        assert own.sound is not None and torch.equal(own.sound, other.sound) and own.silent == other.silent
