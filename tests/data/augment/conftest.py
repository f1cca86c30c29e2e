"""Frames to augment, and a plain `warp_clips` where the library has none."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import videomae_kernels
from videomae_kernels import CroppedClips


def plain_warp(clips: CroppedClips, matrix: Tensor, fill: int = 128) -> Tensor:
    """Every clip by `grid_sample`, which clamps taps to the source; points outside of the source are filled."""
    batch, channels, frames, height, width = clips.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    out = torch.empty(batch, channels, frames, height, width)
    for b in range(batch):
        begin, rows, columns = clips.geometry[b, :3].tolist()
        source = clips.frames[begin : begin + frames * rows * columns * channels].view(frames, rows, columns, channels)
        where = points @ matrix[b].double().T
        sides = torch.tensor([columns, rows])
        grid = (where / sides * 2 - 1)[None].expand(frames, -1, -1, -1)
        sampled = functional.grid_sample(
            source.permute(0, 3, 1, 2).double(), grid, padding_mode="border", align_corners=False
        )
        inside = ((where >= 0) & (where < sides)).all(dim=-1)
        out[b] = torch.where(inside, sampled, fill).transpose(0, 1).float()
    return out


@pytest.fixture(autouse=True)
def warp(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(videomae_kernels, "warp_clips"):
        monkeypatch.setattr(videomae_kernels, "warp_clips", plain_warp, raising=False)


@pytest.fixture
def frames() -> Tensor:
    """uint8 (3, 61, 83, 3): smooth, of different levels in every channel and frame."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (3, 3, 6, 8)).astype(np.float32))
    smooth = functional.interpolate(coarse, (61, 83), mode="bicubic").clamp_(0, 255)
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
