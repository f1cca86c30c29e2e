"""Clips of two events: what they show, that parts of them do not tell the order, and that they can be files."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae_fast.data import read_mixture, split_kinds
from videomae_fast.data.readers import open_video
from videomae_fast.data.sources.events import (
    EVENT_FRAMES,
    EVENTS,
    PAIRS,
    STRENGTH,
    TEMPLATES,
    EventClips,
    captions_of,
    write_event_clips,
)
from videomae_fast.data.sources.written_clips import write_captioned_clips

DRAWS = 1200


def ruler(frames: int = 40, height: int = 48, width: int = 64) -> Tensor:
    """Footage whose channels are y, x and the number of the frame, so that pixels tell where they are from."""
    y, x = (torch.arange(side).float() for side in (height, width))
    shape = frames, height, width
    number = torch.arange(frames)[:, None, None].expand(shape)
    return torch.stack([y[:, None].expand(shape), x.expand(shape), number], dim=3).to(torch.uint8)


@pytest.mark.parametrize("num_frames", [16, 20, 64])
def test_a_clip_shows_its_plan(num_frames: int) -> None:
    clips = EventClips([ruler(), ruler(30, 40, 33)], 3, num_frames=num_frames, size=32)
    for number in range(3 * len(PAIRS)):
        plan, clip = clips.plan(number), clips.clip(number)
        assert clip.shape == (3, num_frames, 32, 32) and clip.dtype == torch.uint8
        tint, share = torch.zeros(3, num_frames), torch.zeros(num_frames)
        for event, start in zip(PAIRS[number % 12], plan.starts, strict=True):
            tint[:, start : start + EVENT_FRAMES] = torch.tensor(EVENTS[event]).float()[:, None]
            share[start : start + EVENT_FRAMES] = STRENGTH
        y, x = (torch.arange(32) + corner for corner in plan.corner)
        pixels = torch.stack(torch.broadcast_tensors(y[None, :, None], x, torch.tensor(plan.frames)[:, None, None]))
        expected = pixels * (1 - share[:, None, None]) + (tint * share)[:, :, None, None]
        assert (clip - expected).abs().max() <= 0.5 + 1e-4


def test_each_pair_of_events_is_one_of_twelve_classes() -> None:
    assert len(PAIRS) == len(set(PAIRS)) == 12
    clips = EventClips([ruler()], 1, num_frames=16)
    _, pairs = clips.batch(range(10, 30))
    assert pairs.tolist() == [number % 12 for number in range(10, 30)]
    assert [clips.plan(number).pair for number in range(10, 30)] == pairs.tolist()


def test_captions_tell_the_pair_and_a_reverse_has_the_same_words() -> None:
    texts = [text for pair in range(12) for text in captions_of(pair)]
    assert len(set(texts)) == 48
    for number, (first, last) in enumerate(PAIRS):
        reverse = captions_of(PAIRS.index((last, first)))
        for text, other in zip(captions_of(number), reverse, strict=True):
            assert sorted(text.replace(",", "").split()) == sorted(other.replace(",", "").split())
    assert captions_of(PAIRS.index(("red", "dark")), TEMPLATES[3:]) == ("dark after red",)


def test_clips_are_a_pure_function_of_seed_and_number() -> None:
    footage = [ruler(), ruler(30, 60, 60)]
    one, two, other = (EventClips(footage, seed, num_frames=16) for seed in (1, 1, 2))
    clips, _ = one.batch([11, 4, 7])
    assert torch.equal(clips[2], two.clip(7)) and not torch.equal(clips, other.batch([11, 4, 7])[0])
    assert {one.plan(number).video for number in range(20)} == {0, 1}


def test_events_are_in_the_first_and_the_last_quarter_alike() -> None:
    """So that a quarter does not tell which of the two it is."""
    clips = EventClips([ruler()], 5, num_frames=64)
    starts = np.stack([clips.plan(number).starts for number in range(DRAWS)]) - [0, 48]
    shares = np.stack([np.bincount(column, minlength=13) / DRAWS for column in starts.T])
    assert shares.shape == (2, 13)  # from 0 to 12
    error = np.sqrt(1 / 13 * 12 / 13 / DRAWS)
    assert np.abs(shares - 1 / 13).max() < 4.5 * error
    assert abs(np.corrcoef(starts.T)[0, 1]) < 4.5 / np.sqrt(DRAWS)


def test_frames_do_not_tell_their_time() -> None:
    """Each frame is as likely in the first quarter as in the last: footage plays forwards and backwards in turn."""
    clips = EventClips([ruler(11)], 6, num_frames=16)
    frames = np.stack([clips.plan(number).frames for number in range(DRAWS)])
    assert (np.abs(np.diff(frames)) == 1).all()
    early, late = (np.bincount(part.ravel(), minlength=11) / part.size for part in (frames[:, :4], frames[:, 12:]))
    assert np.abs(early - late).max() < 0.04
    assert abs(np.diff(frames).mean()) < 0.1  # as often forwards


def test_written_clips_are_read_with_their_captions(tmp_path: Path) -> None:
    clips = EventClips([ruler(40, 48, 64)], 4, num_frames=16)
    path = write_event_clips(clips, range(2, 5), tmp_path / "events")
    assert path == tmp_path / "events" / "captions.tsv"
    videos = split_kinds(read_mixture(path, captioned=True)).videos
    assert videos is not None and len(videos) == 3
    assert videos.captioned(2).captions == captions_of(4)
    before = path.read_bytes(), (path.parent / "00001.mp4").read_bytes()
    write_event_clips(clips, range(2, 5), tmp_path / "events")
    assert before == (path.read_bytes(), (path.parent / "00001.mp4").read_bytes())


def test_written_pixels_are_those_of_the_clip(tmp_path: Path) -> None:
    clips = EventClips([ruler(40, 48, 64)], 4, num_frames=16)
    write_event_clips(clips, range(7, 8), tmp_path)
    with closing(open_video(tmp_path / "00000.mp4")) as video:
        found = torch.from_numpy(video.frames(np.arange(16))).permute(3, 0, 1, 2)
    assert (found.float() - clips.clip(7)).abs().mean() < 4  # chroma has half of the pixels


def test_errors_name_the_argument(tmp_path: Path) -> None:
    for changed, message in (
        ({"footage": []}, "footage must have videos"),
        ({"footage": [ruler(1)]}, r"of two frames or more, got \[\(1, 48, 64, 3\)\]"),
        ({"size": 49}, "size must be from 1 to 48, the shortest side of the footage, got 49"),
        ({"size": 0}, "size must be from 1 to 48"),
        ({"num_frames": 12}, "num_frames must be a multiple of 4, 16 or more, got 12"),
        ({"num_frames": 18}, "num_frames must be a multiple of 4, 16 or more, got 18"),
        ({"seed": -1}, "seed must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            EventClips(**({"footage": [ruler()], "seed": 0} | changed))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"clip 0 must have even sides for H.264, got \(31, 31\)"):
        write_event_clips(EventClips([ruler()], 0, num_frames=16, size=31), [0], tmp_path)
    with pytest.raises(ValueError, match="clips must not be empty"):
        write_captioned_clips([], tmp_path)
    clip = torch.zeros(3, 2, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="clip 1 must have 1 captions, as clip 0, got 2"):
        write_captioned_clips([(clip, ["a"]), (clip, ["a", "b"])], tmp_path)
    assert not list(tmp_path.glob("*.tsv"))
