"""Where a classifier looks: attention rollout over the frames of a clip."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._optional import require
from ..data.augment import normalized_clips
from ..interop import read_classifier
from ..models import InternVideo2
from ..models.families import VideoClassifier
from ..models.layers import Block
from ..models.norms import add_branch
from ..recipes.finetune import FinetuneConfig
from .canvas import below, save_picture, text, to_image

FRAMES_SHOWN = 8
COLOURS = "inferno"  # dark is little, bright is much
OPACITY = 0.6
PROBABILITIES = 2**24  # that are held at a time


def save_attention(model: VideoClassifier, clip: Tensor, path: Path) -> None:
    """Draw frames of a clip, and below them the same frames under their attention rollout.

    All frames have one scale, from the least to the largest token of the clip, which the picture says.

    Args:
        model: as `attention_rollout` takes it.
        clip: as `attention_rollout` takes it.
        path: file of the picture; its suffix names the format, for example .png.

    Raises:
        ValueError: as `attention_rollout`, or Pillow does not write this format.
        TypeError: as `attention_rollout`.
        ImportError: matplotlib or Pillow is missing.
        OSError: the disk is full or broken.
    """
    save_picture(draw_attention(clip, attention_rollout(model, clip)), path)


def save_run_attention(config: FinetuneConfig, weights: Path, path: Path) -> None:
    """Draw where the classifier of a run looks in the first readable video of its training list, one centre view.

    Args:
        config: the run.
        weights: file of its weights, in its checkpoint.
        path: file of the picture; its suffix names the format, for example .png.

    Raises:
        ValueError: the weights do not fit the run, or none of the videos can be read.
        ImportError: matplotlib or Pillow is missing.
        OSError: the disk is full or broken.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = read_classifier(weights).build().eval().to(device)
    views = config.data.centre_views(config.data.labelled_videos())
    clips = next((clips for number in range(len(views)) if (clips := views[number].clips) is not None), None)
    if clips is None:
        raise ValueError(f"data: none of the {len(views)} videos can be read")
    pixels = normalized_clips(clips, mean=(0.0,) * 3, std=(1 / 255,) * 3)[0]
    save_attention(model, pixels.round().to(torch.uint8).permute(1, 2, 3, 0).to(device), path)


def draw_attention(clip: Tensor, rollout: Tensor) -> Any:
    """Draw frames and the shares of their tokens.

    Args:
        clip: (T, H, W, 3) uint8.
        rollout: (T', H', W') shares of tokens, which divide the sizes of the clip.

    Returns:
        A `PIL.Image.Image`: up to FRAMES_SHOWN frames in a row, the same frames in grey under the colours of the
        shares, and a line that says what the darkest and brightest colours are.
    """
    frames = torch.linspace(0, len(clip) - 1, min(FRAMES_SHOWN, len(clip))).round().long()
    colours = _colours(rollout.cpu())
    for dimension, (size, tokens) in enumerate(zip(clip.shape[:3], rollout.shape, strict=True)):
        colours = colours.repeat_interleave(size // tokens, dimension)
    shown = clip.cpu()[frames] / 255
    grey = shown.mean(3, keepdim=True)
    rows = shown, (1 - OPACITY) * grey + OPACITY * colours[frames]
    strips = [to_image(torch.cat(list(row), dim=1)) for row in rows]
    low, high = (float(share) * rollout.numel() for share in rollout.aminmax())
    return below([*strips, text(f"attention rollout: dark {low:.2f}, bright {high:.2f} times the mean token")], gap=4)


def attention_rollout(model: VideoClassifier, clip: Tensor) -> Tensor:
    """The share of every token of a clip in what a classifier reads, if attention alone mixed tokens.

        share = p Â_L ⋯ Â_1,    Â_l = (A_l + I) / 2,    A_l = mean over heads of softmax(q kᵀ / √d)

    VideoMAE's classifier reads the mean of the N tokens, so that p = 1/N · 1ᵀ. That of InternVideo2 reads its attention
    pool, so that p is the attention of the pool, averaged over heads, to the cls token and the N tokens; the share of
    the cls token, which is of no pixels, is left out, and the others are divided by their sum. Rows of A_l sum to 1, so
    those of Â_l do, and the shares, too. The product is taken from the left, so no product of two matrices is ever
    computed; A_l is made some rows at a time. The inputs of all blocks are kept: L·N·D numbers.

    MLPs, norms and the size of values are left out, so this shows where information can come from; it does not
    explain a decision.

    Args:
        model: in evaluation mode, on the device of the clip.
        clip: (T, H, W, C) uint8, of the size of the model.

    Returns:
        (T', H', W') float32 or, for a float64 model, float64; sums to 1.

    Raises:
        ValueError: the model is in training mode, or the clip has another size.
        TypeError: the clip is not uint8.

    References:
        Abnar and Zuidema, arXiv 2005.00928, section 3.
    """
    if model.training:
        raise ValueError("model is in training mode, in which it drops branches: call model.eval()")
    if clip.dtype != torch.uint8:
        raise TypeError(f"clip must be uint8, got {clip.dtype}")
    if clip.ndim != 4:
        raise ValueError(f"clip must have shape (T, H, W, C), got {tuple(clip.shape)}")
    inputs: list[Tensor] = []
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    hooks = [
        block.register_forward_pre_hook(lambda _, terms: inputs.append(add_branch(*terms[:2]))) for block in blocks
    ]
    pool = model.clip_projector if isinstance(model, InternVideo2) else None
    if pool is not None:
        hooks.append(pool.register_forward_pre_hook(lambda _, rows: inputs.append(*rows)))
    try:
        with torch.no_grad():
            model(clip[None], layout="BTHWC")
    finally:
        for hook in hooks:
            hook.remove()
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    tokens = model.config.num_tokens
    if pool is None:
        share = torch.full((tokens,), 1 / tokens, dtype=dtype, device=clip.device)
    else:
        with torch.no_grad():
            share = pool.with_weights(inputs.pop())[1][0].to(dtype)
    for block in reversed(blocks):
        share = (share + _attended(block, inputs.pop(), share)) / 2
    share = share[-tokens:]
    return (share if pool is None else share / share.sum()).view(model.config.grid)


@torch.no_grad()
def _attended(block: Block, x: Tensor, share: Tensor) -> Tensor:
    """share · A: the attention (N, N) of a block on its input x (1, N, D), averaged over heads; some rows at a time."""
    projected = block.attn.project(block.norm1(x))
    q, k = (projected[0].unbind(2) if len(projected) == 1 else projected)[:2]
    queries, keys = q[0].transpose(0, 1), k[0].permute(1, 2, 0)  # (heads, N, d) and (heads, d, N)
    heads, tokens, depth = queries.shape
    total = torch.zeros_like(share)
    rows = max(1, PROBABILITIES // (heads * tokens))
    for some, weights in zip(queries.split(rows, 1), share.split(rows), strict=True):
        attention = (some @ keys / depth**0.5).to(share.dtype).softmax(2)
        total += (weights @ attention).mean(0)
    return total


def _colours(rollout: Tensor) -> Tensor:
    """(T', H', W', 3) in [0, 1]; the least share has the darkest colour, and so has every one of equal shares."""
    low, high = rollout.aminmax()
    levels = (rollout - low) / (high - low).clamp(min=torch.finfo(rollout.dtype).tiny)
    return torch.from_numpy(require("matplotlib").colormaps[COLOURS](levels.numpy())[..., :3]).float()
