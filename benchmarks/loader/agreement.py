"""Nothing is timed before our clips, resized by our ops, have the pixels of the published ones."""

from collections.abc import Sequence

import PIL
import torch
from torch import Tensor

from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD
from benchmarks.harness.run import DisagreementError
from videomae_kernels import CroppedClips, patch_targets

# By `resize`, of 255. "pillow" gives Pillow's integers, but in the order of roundings that Pillow 13 changed; the
# default rounds at most once where Pillow rounds twice.
LIMITS = {"pillow": 1.0 if int(PIL.__version__.split(".")[0]) >= 13 else 0.0, "antialias": 1.5}
FLOAT_ROUNDING = 1e-3  # in the same unit: of normalising and back


def check_same_pixels(ours: CroppedClips, published: Tensor, patch: Sequence[int]) -> float:
    """The largest difference of our pixels from those of a published batch, of 255; DisagreementError beyond LIMITS."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    error = float((pixels(ours, patch) - (published * std + mean) * 255).abs().max())
    if not error <= LIMITS[ours.resize] + FLOAT_ROUNDING:  # NaN is no agreement
        raise DisagreementError(
            f"with resize='{ours.resize}' pixels differ by {error:.3g} of 255 from the published, more than "
            f"{LIMITS[ours.resize]}, so nothing was timed"
        )
    return error


def pixels(clips: CroppedClips, patch: Sequence[int]) -> Tensor:
    """All pixels (B, 3, T, H, W), of 255: those of every token, put back where they came from."""
    batch, _, *size = clips.shape
    grid = [side // step for side, step in zip(size, patch, strict=True)]
    index = torch.arange(grid[0] * grid[1] * grid[2]).expand(batch, -1)
    tokens = patch_targets(clips, index, patch, normalize_target=False)
    blocks = tokens.view(batch, *grid, *patch, 3).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return blocks.reshape(batch, 3, *size) * 255
