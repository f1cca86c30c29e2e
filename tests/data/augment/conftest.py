"""Frames to augment."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional


@pytest.fixture
def frames() -> Tensor:
    """uint8 (3, 61, 83, 3): smooth, of different levels in every channel and frame."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (3, 3, 6, 8)).astype(np.float32))
    smooth = functional.interpolate(coarse, (61, 83), mode="bicubic").clamp_(0, 255)
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
