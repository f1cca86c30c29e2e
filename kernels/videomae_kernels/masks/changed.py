"""changed_token_index: a fixed number of tokens, whose pixels differ most from those of the tokens before."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_count
from .._custom_op import arithmetic_dtype, define_op
from .._values import check_crops
from ..pixels.clip import DIMENSIONS, num_tokens, open_pixels
from ..pixels.crops import CroppedClips
from ..pixels.reference import is_cropped, one_clip
from ..pixels.resize import resized_pixels


def _reference(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int], count: int) -> Tensor:
    first = num_tokens(shape, patch) // (shape[2] // patch[0])
    out = _allocate(clip, shape, patch, count)
    out[:, :first] = torch.arange(first)
    if count == first:
        return out
    for b, kept in enumerate(out):  # one clip at a time, so that its differences stay in a cache
        scores = _scores(one_clip(clip, b), [1, *shape[1:]], patch)
        most = scores.argsort(descending=True, stable=True)[: count - first]
        kept[first:] = most.sort().values + first
    return out


def _scores(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int]) -> Tensor:
    """(N − H'·W',) sums of absolute differences in a batch of one: of uint8 in integers, which are exact."""
    of_frame = (1, *patch[1:])
    last, before = slice(2 * patch[0] - 1, None, patch[0]), slice(None, -patch[0], patch[0])
    if is_cropped(clip):
        tokens = torch.arange(num_tokens(shape, of_frame)).view(shape[2], -1)
        # In two calls of one shape, so that equal pixels of two frames are summed alike and stay equal.
        places = [tokens[t].reshape(1, -1) for t in (last, before)]
        rows = [resized_pixels(clip, shape, place, of_frame, torch.float32)[0] for place in places]
        if not clip[3].is_floating_point():  # Pillow's are integers
            rows = [pixels.byte() for pixels in rows]
        scores = _difference(*rows).sum((1, 2, 3, 4))
    else:
        difference = _difference(clip[0][0, :, last], clip[0][0, :, before])
        scores = difference.unflatten(3, (-1, patch[2])).unflatten(2, (-1, patch[1])).sum((0, 3, 5)).flatten()
    return scores.nan_to_num_(torch.inf, torch.inf) if scores.is_floating_point() else scores


def _difference(last: Tensor, before: Tensor) -> Tensor:
    if last.dtype == torch.uint8:
        return torch.maximum(last, before).sub_(torch.minimum(last, before))
    dtype = arithmetic_dtype(last)
    return (last.to(dtype) - before.to(dtype)).abs_()


def _allocate(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int], count: int) -> Tensor:
    return clip[0].new_empty((shape[0], count), dtype=torch.int64)


def _launch(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int], count: int, out: Tensor) -> None:
    from ..pixels.triton.changed import launch_scores
    from .triton.smallest import new_keys, smallest_index

    tokens = num_tokens(shape, patch)
    first = tokens // (shape[2] // patch[0])
    keys = new_keys(out, tokens)
    if tokens > first:
        launch_scores(clip, shape, patch, keys)
    smallest_index(keys, first, tokens, out)


def _check(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int], count: int) -> None:
    if is_cropped(clip):
        check_crops(clip, shape)


_op = define_op("changed_token_index", _reference, _allocate, _launch, _check)


def changed_token_index(
    clip: Tensor | CroppedClips, count: int, patch: Sequence[int], *, layout: str = DIMENSIONS
) -> Tensor:
    """The tokens whose pixels differ most from those of the token before, and all tokens of the first frames.

        score(t, h, w) = mean over c, y, x of |last frame of token (t, h, w) − first frame of token (t − 1, h, w)|
        kept = tokens (0, h, w), and of the others the `count` − H'·W' of the highest scores

    The two frames are the outermost of both tokens, 2·τ − 1 apart, so that a slow movement counts. Of equal scores the
    lower token number is kept. No other frame is read. `count` does not depend on the clip, so shapes are fixed and
    there is no host sync.

    For uint8 clips and crops resized as "pillow" does, scores are exact integers, and the result is the same on every
    device. Otherwise sums are of float32 in the fixed order of each implementation: CPU and GPU can differ where scores
    are equal to rounding. Pixels that do not change at all have a score of 0 everywhere. A score that is NaN counts as
    infinite. No gradient.

    Args:
        clip: uint8 or floating, of any strides, five dimensions in the order of `layout`; or `CroppedClips`, whose
            pixels are resized only where they are compared.
        count: tokens kept of each clip, in [H'·W', N].
        patch: (τ, p, p) frames, rows and columns of a token.
        layout: order of the clip's dimensions, a permutation of "BCTHW". `CroppedClips` have no use for it.

    Returns:
        (B, count) int64 token numbers in (t, h, w) order, ascending.

    Raises:
        ValueError: a shape or value of an argument is not allowed; `count` is less than the tokens of the first frames.
        TypeError: a dtype of an argument is not allowed, or `count` is no integer.

    References:
        R. Choudhury et al., "Don't Look Twice: Faster Video Transformers with Run-Length Tokenization", arXiv
        2411.05222, section 3, whose threshold keeps another number of tokens of each clip; here the number is fixed.
    """
    tensors, shape, sides = open_pixels(clip, patch, layout)
    tokens = num_tokens(shape, sides)
    count = check_count(count, "count", tokens // (shape[2] // sides[0]), tokens)
    return _op([tensor.detach() for tensor in tensors], shape, sides, count)
