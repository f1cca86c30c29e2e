"""A task that one frame does not solve: which known operation on real footage made a clip.

The operations are listed in `OPERATIONS` and `HARD_OPERATIONS`. Everything else about a clip (footage, frames, crop) is
drawn alike for all of them, so that a classifier has to see what changes over time. What one frame can tell, if its
place in the clip and its crop are known exactly:

* frames: nothing. Footage plays forwards and backwards in turn, so each frame is as likely at every place of a clip.
  Plays that never turn ("forwards" and "backwards") are the exception, and one reason why they are hard.
* crop: nothing in the middle of a clip. At its ends, a move shows as half of its length, out of a range that is one and
  a half to ten times the length. It cannot be nothing: crops that move right would then be where crops that move left
  are, on average, at both ends. An ideal observer of the crop at one end is right in a quarter of all cases.

File structure:
    OPERATIONS, HARD_OPERATIONS   the classes
    read_footage                  frames of the first or the last part of videos
    OperationPlan                 what one clip shows
    OperationClips                the clips of a seed, by number
"""

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..readers import open_video
from ..seeding import operation_rng

OPERATIONS = ("freeze", "halves swapped", "zoom in", "zoom out", "pan left", "pan right", "pan up", "pan down")
# Footage that plays: small networks trained for minutes do not tell these apart.
HARD_OPERATIONS = ("forwards", "backwards", "double speed")

PARTS = ("train", "test")
TRAIN_SHARE = 0.7  # of the frames of a video; the others are held out
PAN = 0.5  # of the crop's side, over a clip
ZOOM = math.log(1.6)  # of the logarithm of the side, over a clip
SIDES = 0.15, 0.45  # of the crop in the middle of a clip, as a share of the footage's shorter side
MARGIN = max(1 + PAN, math.exp(ZOOM / 2)) / 2  # from the middle crop's centre to the border, in sides of it

_PANS = {"pan left": (0, -1), "pan right": (0, 1), "pan up": (-1, 0), "pan down": (1, 0)}
_ZOOMS = {"zoom in": -1, "zoom out": 1}


def read_footage(videos: Iterable[str | os.PathLike], part: str, short_side: int = 160) -> list[Tensor]:
    """Decode the part of each video that clips are cut from.

    Args:
        videos: video files.
        part: "train" is the first 70 % of the frames of each video, "test" the others.
        short_side: pixels; larger frames are scaled down to this shorter side.

    Returns:
        uint8 (F, height, width, 3) of each video.

    Raises:
        ValueError: `part` is unknown, or a video has fewer than two frames in it.
        VideoError: a video cannot be read.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    footage = []
    for path in videos:
        with closing(open_video(path, short_side=short_side)) as video:
            border = int(TRAIN_SHARE * video.num_frames)
            numbers = np.arange(border) if part == "train" else np.arange(border, video.num_frames)
            if len(numbers) < 2:
                raise ValueError(f"{path} has {len(numbers)} frames for {part}: footage needs two or more")
            footage.append(torch.from_numpy(video.frames(numbers)))
    return footage


@dataclass(frozen=True, eq=False)
class OperationPlan:
    """What one clip shows.

    Attributes:
        video: number of the footage.
        operation: number of the operation.
        frames: (T,) int64 frames of the footage.
        centres: (T, 2) float64 (y, x) of the square crop, in pixels of the footage.
        sides: (T,) float64 of the square crop, in pixels of the footage.
    """

    video: int
    operation: int
    frames: np.ndarray
    centres: np.ndarray
    sides: np.ndarray


class OperationClips:
    """Clips of known operations; clip `number` is a pure function of (seed, number).

    So clips of the same number have the same operation and crop in other footage of the same size: give clips for
    training and for tests other numbers or another seed.

    Its operation is number mod the number of operations. With u_t = t / (T − 1) − 1/2, place t shows a crop of

        side_t   = side · exp(±ZOOM · u_t)         of "zoom out" and "zoom in"; side of the others
        centre_t = centre ± PAN · side · u_t       along the axis of a pan; centre of the others

    where log side and centre are uniform over what every operation can do inside the footage. A move of the crop's
    centre to the right is "pan right". The frames are those of footage that plays with a stride, forwards and backwards
    in turn; "freeze" repeats one, "halves swapped" shows the second half before the first.

    Args:
        footage: uint8 (F, height, width, 3) of each video, F ≥ 2, as `read_footage` returns them.
        seed: in [0, 2**64).
        operations: of OPERATIONS and HARD_OPERATIONS; their order numbers the classes.
        num_frames: T, even.
        frame_stride: frames of the footage from one frame of a clip to the next.
        size: height and width of the clips, in pixels.

    Raises:
        ValueError: there is no footage, or an argument is out of range or unknown.
    """

    def __init__(
        self,
        footage: Sequence[Tensor],
        seed: int,
        *,
        operations: Sequence[str] = OPERATIONS,
        num_frames: int = 16,
        frame_stride: int = 2,
        size: int = 112,
    ) -> None:
        if not footage or any(frames.ndim != 4 or len(frames) < 2 or frames.shape[3] != 3 for frames in footage):
            shapes = [tuple(frames.shape) for frames in footage]
            raise ValueError(f"footage must have videos (F, height, width, 3) of two frames or more, got {shapes}")
        if unknown := set(operations) - {*OPERATIONS, *HARD_OPERATIONS} or not operations:
            raise ValueError(f"operations must be of {OPERATIONS + HARD_OPERATIONS}, got {unknown or operations}")
        if num_frames < 2 or num_frames % 2:
            raise ValueError(f"num_frames must be even and positive, got {num_frames}")
        if frame_stride < 1 or size < 1:
            raise ValueError(f"frame_stride and size must be positive, got {frame_stride} and {size}")
        operation_rng(seed, 0)  # raises for a seed out of range here
        self.footage, self.seed, self.operations = tuple(footage), seed, tuple(operations)
        self.num_frames, self.frame_stride, self.size = num_frames, frame_stride, size

    def plan(self, number: int) -> OperationPlan:
        """Draw a clip, without its pixels.

        Args:
            number: of the clip, in [0, 2**64).

        Returns:
            Its plan.
        """
        rng = operation_rng(self.seed, number)
        operation = number % len(self.operations)
        video = int(rng.integers(len(self.footage)))
        total, height, width, _ = self.footage[video].shape
        name, short = self.operations[operation], min(height, width)
        smallest, largest = SIDES
        side = short * math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        low, high = MARGIN * side, np.array([height, width]) - MARGIN * side
        centre = low + rng.random(2) * (high - low)
        u = np.linspace(-0.5, 0.5, self.num_frames)
        centres = centre + PAN * side * np.outer(u, _PANS.get(name, (0, 0)))
        sides = side * np.exp(ZOOM * _ZOOMS.get(name, 0) * u)
        return OperationPlan(video, operation, self._frames(name, total, rng), centres, sides)

    def _frames(self, name: str, total: int, rng: np.random.Generator) -> np.ndarray:
        place = np.arange(self.num_frames)
        if name in ("forwards", "backwards"):
            span = self.frame_stride * (self.num_frames - 1)
            if span >= total:
                raise ValueError(f"'{name}' needs {span + 1} frames of footage that plays once, got {total}")
            frames = rng.integers(total - span) + self.frame_stride * place
            return frames if name == "forwards" else frames[::-1].copy()
        if name == "halves swapped":
            place = np.roll(place, self.num_frames // 2)
        speed = {"freeze": 0, "double speed": 2}.get(name, 1)
        cycle = 2 * (total - 1)
        found = (rng.integers(cycle) + speed * self.frame_stride * place) % cycle
        return np.minimum(found, cycle - found)

    def clip(self, number: int) -> Tensor:
        """The pixels of a clip.

        Args:
            number: of the clip.

        Returns:
            uint8 (3, T, size, size), bilinear.
        """
        plan = self.plan(number)
        frames = self.footage[plan.video][torch.from_numpy(plan.frames)].permute(0, 3, 1, 2).float()
        extent = torch.tensor(frames.shape[2:], dtype=torch.float64)
        scale = torch.from_numpy(plan.sides)[:, None] / extent
        shift = 2 * torch.from_numpy(plan.centres) / extent - 1
        place = (torch.arange(self.size, dtype=torch.float64) * 2 + 1) / self.size - 1
        y, x = (shift[:, axis, None] + scale[:, axis, None] * place for axis in (0, 1))
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1).float()
        cut = F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return cut.round().clamp(0, 255).to(torch.uint8).transpose(0, 1).contiguous()

    def batch(self, numbers: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Several clips and their operations.

        Args:
            numbers: of the clips.

        Returns:
            uint8 (B, 3, T, size, size), and int64 (B,).
        """
        numbers = list(numbers)
        labels = torch.tensor([number % len(self.operations) for number in numbers])
        return torch.stack([self.clip(number) for number in numbers]), labels
