"""The change of every token since the one before, as run-length tokenization measures it, to check ours against.

Source: arXiv 2411.05222, section 3, and src/models/static_token_utils.py of https://github.com/rccchoudhury/rlt. The
published code keeps the tokens above a threshold, another number in each clip; a caller here takes the largest scores.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def token_changes(clip: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, N) mean absolute differences of a (B, C, T, H, W) clip; 255 for the tokens of the first frames.

    The last frame of each token is compared with the first frame of the token before, in a float copy of the clip.
    """
    frames, height, width = patch
    clip = clip if clip.is_floating_point() else clip.float()
    difference = (clip[:, :, 2 * frames - 1 :: frames] - clip[:, :, :-frames:frames]).abs()
    means = F.avg_pool3d(difference, (1, height, width)).mean(dim=1)
    return torch.cat([torch.full_like(means[:, :1], 255), means], dim=1).flatten(1)
