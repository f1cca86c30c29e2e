"""The published measure of change by hand, and what our op keeps by it."""

import pytest
import torch

from benchmarks.baselines import rewrites
from benchmarks.baselines.published.static_tokens import token_changes
from videomae_kernels import changed_token_index
from videomae_kernels.testing import make_clip

GRID, PATCH = (3, 2, 3), (2, 4, 4)


def test_changes_of_two_pixels() -> None:
    """Frames 0 to 5 of three tokens: 3 is compared with 0, and 5 with 2."""
    clip = torch.zeros(1, 2, 6, 1, 2, dtype=torch.uint8)
    clip[0, :, 3, 0, 1], clip[0, 0, 2, 0, 0], clip[0, :, 1:5:3] = 10, 4, 99
    assert token_changes(clip, (2, 1, 1)).tolist() == [[255, 255, 0, 10, 2, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_our_op_and_the_rewrite_keep_the_largest(dtype: torch.dtype) -> None:
    clip = make_clip(GRID, PATCH, dtype=dtype)
    changes = token_changes(clip, PATCH)
    expected = changes.argsort(dim=1, descending=True, stable=True)[:, :10].sort(dim=1).values
    assert torch.equal(changed_token_index(clip, 10, PATCH), expected)
    assert torch.equal(rewrites.changed_token_index(clip, 10, PATCH), expected)
