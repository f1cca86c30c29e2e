"""Nothing is timed before our clips, resized by our ops, have the pixels of the published ones."""

from collections.abc import Sequence

import PIL
import torch
from torch import Tensor

from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD
from benchmarks.harness.run import DisagreementError
from videomae_kernels import CroppedClips, patch_targets

# By `resize`, in units of 1/255. "pillow" rounds in the order of Pillow before 13, which Pillow 13 changed; the default
# rounds at most once where Pillow rounds twice.
LIMITS = {"pillow": 1.0 if int(PIL.__version__.split(".")[0]) >= 13 else 0.0, "antialias": 1.5}
FLOAT_ROUNDING = 1e-3  # in the same unit: of normalising and back


def check_same_pixels(ours: CroppedClips, published: Tensor, patch: Sequence[int]) -> float:
    """The largest difference between our and the published pixels, of 255. DisagreementError beyond LIMITS."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    error = float((pixels(ours, patch) - (published * std + mean) * 255).abs().max())
    if not error <= LIMITS[ours.resize] + FLOAT_ROUNDING:  # NaN is no agreement
        raise DisagreementError(
            f"with resize='{ours.resize}' pixels differ by {error:.3g} of 255 from the published pixels, more than "
            f"{LIMITS[ours.resize]}, so nothing was timed"
        )
    return error


def pixels(clips: CroppedClips, patch: Sequence[int]) -> Tensor:
    """All pixels (B, 3, T, H, W) in [0, 255], gathered token by token and put back in place."""
    batch, _, *size = clips.shape
    grid = [side // step for side, step in zip(size, patch, strict=True)]
    index = torch.arange(grid[0] * grid[1] * grid[2]).expand(batch, -1)
    tokens = patch_targets(clips, index, patch, normalize_target=False)
    blocks = tokens.view(batch, *grid, *patch, 3).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return blocks.reshape(batch, 3, *size) * 255
