"""A task of long clips: which of two events on real footage came first, where the events are at far ends of a clip.

An event tints all of a few frames. Everything else about a clip (footage, frames, crop, times of the events) is drawn
alike for all pairs of events. The right caption is one of 12, or one of 2 that only differ in the order of the events.
What a viewer of a part of a clip can know at best:

    | seen                                        | of 12 captions | of a caption and its reverse |
    |---------------------------------------------|----------------|------------------------------|
    | all frames in their order                   | 1              | 1                            |
    | all frames in random order                  | 1/2            | 1/2                          |
    | the first or the last quarter, not which    | 1/6            | 1/2                          |
    | one frame, not its time                     | 1/6 or less    | 1/2                          |
    | the first half, and that it is the first    | 1/3            | 1                            |

In the last row the first event is seen, so that it is known which came first, but not what came last.

File structure:
    EVENTS, PAIRS, TEMPLATES   what happens, and how captions say it
    EventPlan                  what one clip shows
    EventClips                 the clips of a seed, by number
    write_event_clips          clips as video files, with a list of their captions
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..seeding import event_rng
from .written_clips import write_captioned_clips

EVENTS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "dark": (0, 0, 0)}  # what frames are tinted to
PAIRS = tuple(permutations(EVENTS, 2))  # the classes: (first, last)
# The last one names the later event first, so that neither the words nor their order alone tell the order of events.
TEMPLATES = (
    "turns {first}, then {last}",
    "first {first}, later {last}",
    "{first} before {last}",
    "{last} after {first}",
)

EVENT_FRAMES = 4
STRENGTH = 0.6  # share of the tint in a pixel of an event


def captions_of(pair: int, templates: Sequence[str] = TEMPLATES) -> tuple[str, ...]:
    """The captions of a pair of events.

    Args:
        pair: its number in PAIRS.
        templates: of TEMPLATES.

    Returns:
        One text for each of `templates`. No other pair has any of them.
    """
    first, last = PAIRS[pair]
    return tuple(template.format(first=first, last=last) for template in templates)


@dataclass(frozen=True, eq=False)
class EventPlan:
    """What one clip shows.

    Attributes:
        video: number of the footage.
        pair: number of the pair of events in PAIRS.
        frames: (T,) int64 frames of the footage.
        starts: (2,) int64 first frame of each event in the clip.
        corner: (2,) int64 (y, x) of the crop, in pixels of the footage.
    """

    video: int
    pair: int
    frames: np.ndarray
    starts: np.ndarray
    corner: np.ndarray


class EventClips:
    """Clips of two events; clip `number` is a pure function of (seed, number).

    So clips of the same number have the same events, times and crop in other footage of the same size: give clips for
    training and for tests other numbers or another seed.

    Its pair of events is number mod 12. An event tints EVENT_FRAMES frames,

        pixel ← (1 − STRENGTH) · pixel + STRENGTH · colour of EVENTS

    the first at a uniform time in the first quarter of the clip, the last at a uniform time in the last quarter.
    Footage plays forwards and backwards in turn, from a uniform frame on. The crop has a uniform place.

    Args:
        footage: uint8 (F, height, width, 3) of each video, F ≥ 2, as `read_footage` returns them.
        seed: in [0, 2**64).
        num_frames: T, a multiple of 4, at least 16.
        size: height and width of the clips, in pixels of the footage.

    Raises:
        ValueError: there is no footage, a video is smaller than the clips, or an argument is out of range.
    """

    def __init__(self, footage: Sequence[Tensor], seed: int, *, num_frames: int = 64, size: int = 32) -> None:
        if not footage or any(frames.ndim != 4 or len(frames) < 2 or frames.shape[3] != 3 for frames in footage):
            shapes = [tuple(frames.shape) for frames in footage]
            raise ValueError(f"footage must have videos (F, height, width, 3) of two frames or more, got {shapes}")
        smallest = min(min(frames.shape[1:3]) for frames in footage)
        if not 1 <= size <= smallest:
            raise ValueError(f"size must be from 1 to {smallest}, the shortest side of the footage, got {size}")
        if num_frames < 4 * EVENT_FRAMES or num_frames % 4:
            raise ValueError(f"num_frames must be a multiple of 4, {4 * EVENT_FRAMES} or more, got {num_frames}")
        event_rng(seed, 0)  # raises for a seed out of range here
        self.footage, self.seed = tuple(footage), seed
        self.num_frames, self.size = num_frames, size

    def plan(self, number: int) -> EventPlan:
        """Draw a clip, without its pixels.

        Args:
            number: of the clip, in [0, 2**64).

        Returns:
            Its plan.
        """
        rng = event_rng(self.seed, number)
        video = int(rng.integers(len(self.footage)))
        total, height, width, _ = self.footage[video].shape
        corner = rng.integers(np.array([height, width]) - self.size + 1)
        cycle = 2 * (total - 1)
        place = (rng.integers(cycle) + np.arange(self.num_frames)) % cycle
        quarter = self.num_frames // 4
        starts = rng.integers(quarter - EVENT_FRAMES + 1, size=2) + np.array([0, 3 * quarter])
        return EventPlan(video, number % len(PAIRS), np.minimum(place, cycle - place), starts, corner)

    def clip(self, number: int) -> Tensor:
        """The pixels of a clip.

        Args:
            number: of the clip.

        Returns:
            uint8 (3, T, size, size).
        """
        plan = self.plan(number)
        y, x = plan.corner
        footage = self.footage[plan.video][:, y : y + self.size, x : x + self.size]
        clip = footage[torch.from_numpy(plan.frames)].float()
        for event, start in zip(PAIRS[plan.pair], plan.starts, strict=True):
            clip[start : start + EVENT_FRAMES].lerp_(torch.tensor(EVENTS[event], dtype=torch.float32), STRENGTH)
        return clip.round().to(torch.uint8).permute(3, 0, 1, 2).contiguous()

    def batch(self, numbers: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Several clips and their pairs of events.

        Args:
            numbers: of the clips.

        Returns:
            uint8 (B, 3, T, size, size), and int64 (B,).
        """
        numbers = list(numbers)
        pairs = torch.tensor([number % len(PAIRS) for number in numbers])
        return torch.stack([self.clip(number) for number in numbers]), pairs


def write_event_clips(
    clips: EventClips, numbers: Iterable[int], folder: Path, templates: Sequence[str] = TEMPLATES
) -> Path:
    """Write clips as videos with captions, for example for `videomae-fast contrast --sampling uniform`.

    Args:
        clips: of an even `size`.
        numbers: of the clips.
        folder: for captions.tsv, a [list](captions.py) with the captions of each clip, and the videos it names.
        templates: of TEMPLATES; each clip has a caption of each.

    Returns:
        The path of the list.

    Raises:
        ImportError: PyAV is missing.
        ValueError: as `write_captioned_clips`.
        OSError: a file cannot be written.
    """
    return write_captioned_clips(((clips.clip(n), captions_of(n % len(PAIRS), templates)) for n in numbers), folder)
