"""Captioned videos of known operations: what the captions are, and what the files show."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.test_operations import ruler
from videomae_fast.data.readers import open_video
from videomae_fast.data.sources.captions import read_captions
from videomae_fast.data.sources.operation_captions import CAPTIONS, write_operation_clips
from videomae_fast.data.sources.operations import OPERATIONS, OperationClips
from videomae_fast.data.sources.written_clips import FPS


def clips(**changes: object) -> OperationClips:
    return OperationClips([ruler()], 3, **({"num_frames": 4, "size": 32} | changes))  # type: ignore[arg-type]


def test_each_operation_has_captions_of_its_own() -> None:
    assert tuple(CAPTIONS) == OPERATIONS
    assert all(len(captions) >= 2 for captions in CAPTIONS.values())
    assert set(Counter(caption for captions in CAPTIONS.values() for caption in captions).values()) == {1}


def test_a_list_names_the_videos_and_their_captions(tmp_path: Path) -> None:
    path = write_operation_clips(clips(), range(20, 37), tmp_path / "test")
    found = read_captions(path)
    assert len(found) == 17
    for place, number in enumerate(range(20, 37)):
        entry = found.captioned(place)
        assert entry.name == str(tmp_path / "test" / f"{place:05}.mp4")
        assert entry.captions == CAPTIONS[OPERATIONS[number % len(OPERATIONS)]]


def test_videos_show_their_clips_and_are_the_same_when_written_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_operation_clips(clips(), range(3), tmp_path / name)
    for number in range(3):
        file, again = (tmp_path / name / f"{number:05}.mp4" for name in ("one", "two"))
        assert file.read_bytes() == again.read_bytes()
        video = open_video(file)
        assert (video.num_frames, video.fps) == (4, FPS)
        shown = video.frames(np.arange(4)).astype(float)
        video.close()
        wanted = clips().clip(number).permute(1, 2, 3, 0).double().numpy()
        assert np.abs(shown - wanted).mean() < 4  # of 255; H.264 halves the size of colours


def test_errors_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"operations with captions are freeze, .*, got backwards"):
        write_operation_clips(clips(operations=["freeze", "backwards"]), range(2), tmp_path / "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"clip 0 must have even sides for H\.264, got"):
        write_operation_clips(clips(size=15), range(2), tmp_path / "x")
