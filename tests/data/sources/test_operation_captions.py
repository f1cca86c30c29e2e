"""Captioned videos of known operations: what the captions are, and what the files show."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.sources.test_operations import ruler
from videomae_fast.data.readers import open_video
from videomae_fast.data.sources.captions import read_captions
from videomae_fast.data.sources.operation_captions import CAPTIONS, FPS, write_clip, write_operation_clips
from videomae_fast.data.sources.operations import OPERATIONS, OperationClips


def clips(**changes: object) -> OperationClips:
    return OperationClips([ruler()], 3, **({"num_frames": 4, "size": 32} | changes))  # type: ignore[arg-type]


def test_each_operation_has_captions_of_its_own() -> None:
    assert tuple(CAPTIONS) == OPERATIONS
    assert all(len(captions) >= 2 for captions in CAPTIONS.values())
    assert set(Counter(caption for captions in CAPTIONS.values() for caption in captions).values()) == {1}


def test_a_list_names_the_videos_and_their_captions(tmp_path: Path) -> None:
    write_operation_clips(clips(), range(20, 37), tmp_path / "test.jsonl")
    found = read_captions(tmp_path / "test.jsonl")
    assert len(found) == 17 and len(list((tmp_path / "test").iterdir())) == 17
    for place, number in enumerate(range(20, 37)):
        entry = found.captioned(place)
        assert entry.name == str(tmp_path / "test" / f"{number:05}.mp4")
        assert entry.captions == CAPTIONS[OPERATIONS[number % len(OPERATIONS)]]


def test_videos_show_their_clips_and_are_the_same_when_written_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_operation_clips(clips(), range(3), tmp_path / f"{name}.jsonl")
    for number in range(3):
        file, again = (tmp_path / name / f"{number:05}.mp4" for name in ("one", "two"))
        assert file.read_bytes() == again.read_bytes()
        video = open_video(file)
        assert (video.num_frames, video.fps) == (4, FPS)
        shown = video.frames(np.arange(4)).astype(float)
        video.close()
        wanted = clips().clip(number).permute(1, 2, 3, 0).double().numpy()
        assert np.abs(shown - wanted).mean() < 4  # of 255; H.264 halves the size of colours


def test_a_clip_of_any_shape_is_written(tmp_path: Path) -> None:
    write_clip(torch.full((3, 5, 16, 24), 90, dtype=torch.uint8), tmp_path / "clip")
    video = open_video(tmp_path / "clip")
    assert video.frames(np.arange(5)).shape == (5, 16, 24, 3)
    video.close()


def test_errors_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"operations with captions are freeze, .*, got backwards"):
        write_operation_clips(clips(operations=["freeze", "backwards"]), range(2), tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="size must be even, as the colours of videos need it, got 15"):
        write_operation_clips(clips(size=15), range(2), tmp_path / "x.jsonl")
    assert not list(tmp_path.iterdir())
