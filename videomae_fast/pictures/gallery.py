"""A picture to check before training: how crops, resizing and masks turn a run's first video into clips.

The picture has a row for each crop. A row shows the same frames in three panels:

    source             the frame with the crop's box (thick) and the other boxes (thin); hidden tokens are dark,
                       predicted tokens are tinted
    encoder sees       the pixels of the visible tokens, on grey
    decoder predicts   the pixels of the tokens that the decoder predicts, on grey

Boxes and masks mark the source. The ops make the other two panels from the clips that training gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomae_kernels import CroppedClips, patch_targets

from ..data import Crop, Draw, cut_clips
from ..masks import MaskPlan
from ..recipes.pretrain import PretrainConfig
from .canvas import below, beside, framed, outline, picture_format, save_picture, text, to_image
from .reconstruction import on_grey, to_frames

ROWS, FRAMES = 4, 4  # crops and frames shown at most; frames stand two by two
CLIP_SIDE = 224  # pixels; smaller clips are enlarged by the largest whole number that fits
CANVAS_WIDTH = 2000  # pixels; source frames fill the width that the clips leave, and are at least as wide as a clip
COLOURS = ((255, 140, 0), (0, 170, 255), (255, 80, 170), (90, 200, 40))  # a colour for each crop
DARK, TINT = 0.3, 0.35  # brightness of hidden tokens; share of the crop's colour in predicted tokens
GAP = 4  # pixels between frames; 3 gaps between rows, 4 between panels and around the canvas


@dataclass(frozen=True)
class Sample:
    """R clips with their masks, as training gets them, and the frames that the clips are cut from.

    Attributes:
        clips: R clips.
        plan: the masks of the clips.
        patch: (frames, height, width) of a token, in pixels.
        drawn: the decoded frames and the crop boxes.
        path: name of the video.
    """

    clips: CroppedClips
    plan: MaskPlan
    patch: tuple[int, int, int]
    drawn: Draw
    path: str


def save_gallery(config: PretrainConfig, path: Path) -> None:
    """Draw the first sample of a run into a file.

    Args:
        config: the run.
        path: the file; its suffix names the format, for example .png or .jpg.

    Raises:
        ValueError: Pillow does not write this format, or the configuration cannot work.
        UnreadableVideosError: no video can be read.
        ImportError: Pillow is missing.
    """
    picture_format(path)  # before any video is decoded
    save_picture(draw_canvas(first_sample(config)), path)


def first_sample(config: PretrainConfig) -> Sample:
    """Decode and crop the first video of a run as training does.

    Args:
        config: the run.

    Returns:
        Sample number 0.

    Raises:
        ValueError: the configuration cannot work.
        UnreadableVideosError: neither the video nor its replacements can be read.
    """
    dataset, seed = config.data.dataset(config.run.seed), config.run.seed
    drawn = dataset.draw(int(dataset.annotations.order(seed, 0)[0]), 0)
    clips = cut_clips(drawn.frames, drawn.crops, dataset.size, dataset.resize)
    path = dataset.annotations[drawn.index].name
    model = config.model_config()
    plan = config.masks.plan(torch.arange(config.data.crops_per_video), model.grid, seed)
    return Sample(clips, plan, model.patch, drawn, path)


def token_map(crop: Crop, frame: Sequence[int], shown: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Find the token of every pixel of a frame.

    The source of a flipped clip is not flipped, so the token columns run from right to left in the source.

    Args:
        crop: the box, in pixels of the source, and whether the clip is flipped.
        frame: (height, width) of the source.
        shown: (height, width) of the resized source.
        grid: (H', W') tokens of a frame of the clip.

    Returns:
        int64 of shape `shown`: the token h·W' + w of each pixel, -1 outside the box.
    """
    (top, left, height, width), flipped = crop
    row = _along(top, height, frame[0], shown[0], grid[0])[:, None]
    column = _along(left, width, frame[1], shown[1], grid[1])
    if flipped:
        column = torch.where(column < 0, column, grid[1] - 1 - column)
    return torch.where((row < 0) | (column < 0), -1, row * grid[1] + column)


def _along(start: int, length: int, frame: int, shown: int, parts: int) -> Tensor:
    """Along one axis: which of the equal parts of [start, start + length) holds each pixel's centre; -1 outside."""
    centre = (torch.arange(shown, dtype=torch.float64) + 0.5) * (frame / shown) - start
    part = (centre * parts / length).floor().long().clamp(max=parts - 1)
    return torch.where((centre >= 0) & (centre < length), part, -1)


def mark_tokens(pixels: Tensor, tokens: Tensor, visible: Tensor, predicted: Tensor, colour: Sequence[int]) -> Tensor:
    """Darken the hidden tokens, and tint the predicted tokens.

    Args:
        pixels: (h, w, 3) uint8.
        tokens: (h, w) int64, as `token_map` returns them.
        visible: (H'·W',) bool.
        predicted: (H'·W',) bool.
        colour: (red, green, blue) in [0, 255] of the tint.

    Returns:
        (h, w, 3) uint8, a new tensor.
    """
    inside, marked = tokens >= 0, pixels.float()
    marked[inside & ~visible[tokens]] *= DARK
    tinted = inside & predicted[tokens]
    marked[tinted] = torch.lerp(marked[tinted], marked.new_tensor(colour), TINT)
    return marked.round().to(torch.uint8)


def clips_on_grey(sample: Sample, index: Tensor) -> list[Tensor]:
    """The frames of each clip, grey outside the listed tokens.

    Args:
        sample: R clips.
        index: (R, K) int64 tokens.

    Returns:
        R tensors (T, H, W, C) in [0, 1].
    """
    plan, patch = sample.plan, sample.patch
    rows = patch_targets(sample.clips, index, patch, normalize_target=False)
    return [to_frames(clip, plan.grid, patch) for clip in on_grey(rows, index, plan.num_tokens)]


def draw_canvas(sample: Sample) -> Any:
    """Draw the whole picture of a sample, a `PIL.Image.Image`, with at most `ROWS` crops and `FRAMES` frames."""
    plan, last = sample.plan, len(sample.drawn.frames) - 1
    times = torch.linspace(0, last, min(FRAMES, last + 1)).round().int().tolist()
    zoom = max(1, CLIP_SIDE // max(sample.clips.size))
    height, width = (zoom * side for side in sample.clips.size)
    room = max(width, (CANVAS_WIDTH - 4 * width - 19 * GAP) // 2)  # 19 gaps lie from edge to edge
    scale = min(height / sample.drawn.frames.shape[1], room / sample.drawn.frames.shape[2])
    made = clips_on_grey(sample, plan.visible), clips_on_grey(sample, plan.predicted)
    of_all = f"of {plan.num_tokens} tokens"
    titles = f"encoder sees {plan.visible.shape[1]} {of_all}", f"decoder predicts {plan.predicted.shape[1]} {of_all}"
    captions = [text(f"frame {sample.drawn.frame_numbers[time]}") for time in times]
    rows = []
    for number, crop in enumerate(sample.drawn.crops[:ROWS]):
        marked = [mark_frame(sample, number, time, scale) for time in times]
        pixels = [[to_image(clips[number][time], zoom) for time in times] for clips in made]
        panels = zip((_title(number, crop), *titles), (marked, *pixels), strict=True)
        rows.append(beside([below([text(title), _two_by_two(p, captions)], 0) for title, p in panels], 4 * GAP))
    return framed(below([*rows, below([text(line) for line in describe(sample)], 0)], 3 * GAP), 4 * GAP)


def mark_frame(sample: Sample, number: int, time: int, scale: float) -> Any:
    """Draw a source frame with the tokens of one crop marked and all boxes outlined.

    Args:
        sample: the sample.
        number: number of the crop.
        time: number of the frame in the clip.
        scale: side of the picture over side of the frame.

    Returns:
        A `PIL.Image.Image`.
    """
    plan, (height, width) = sample.plan, sample.drawn.frames.shape[1:3]
    shown = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = torch.from_numpy(np.array(to_image(sample.drawn.frames[time]).resize(shown[::-1])))
    tokens = token_map(sample.drawn.crops[number], (height, width), shown, plan.grid[1:])
    visible, predicted = (_listed(sample, index[number], time) for index in (plan.visible, plan.predicted))
    picture = to_image(mark_tokens(pixels, tokens, visible, predicted, COLOURS[number]))
    boxes = [[side * scale for side in crop.box] for crop in sample.drawn.crops[:ROWS]]
    for other, box in enumerate(boxes):
        outline(picture, box, COLOURS[other], width=1)
    outline(picture, boxes[number], COLOURS[number], width=3)
    return picture


def _listed(sample: Sample, index: Tensor, time: int) -> Tensor:
    """(H'·W',) bool: which tokens of frame `time` are in `index` (K,)."""
    listed = torch.zeros(sample.plan.num_tokens, dtype=torch.bool)
    listed[index] = True
    return listed.view(sample.plan.grid[0], -1)[time // sample.patch[0]]


def _two_by_two(pictures: Sequence[Any], captions: Sequence[Any]) -> Any:
    cells = [below([picture, caption], 0) for picture, caption in zip(pictures, captions, strict=True)]
    return below([beside(cells[first : first + 2], GAP) for first in range(0, len(cells), 2)], 0)


def _title(number: int, crop: Crop) -> str:
    (top, left, height, width), flipped = crop
    return f"crop {number + 1}: {width} x {height} at {left}, {top}{', flipped' * flipped}"


def describe(sample: Sample) -> list[str]:
    """The lines of text below the picture of a sample."""
    clips, (height, width) = sample.clips, sample.drawn.frames.shape[1:3]
    sent = clips.nbytes // clips.shape[0]
    return [
        "bright: seen by the encoder; dark: hidden from it; tinted: predicted by the decoder",
        f"{sample.path}: {width} x {height}, frames {', '.join(map(str, sample.drawn.frame_numbers))}",
        f"resize {clips.resize}, to {clips.size[1]} x {clips.size[0]}; {sent:,} bytes sent per clip",
        *(f"instead of {bad.path}: {bad.reason}" for bad in sample.drawn.bad_videos),
    ]
