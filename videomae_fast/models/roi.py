"""Features of boxes in a token map, for detection heads: RoIAlign over the mean of the token frames."""

import torch
from torch import Tensor

_MOST = 1024  # bins of a box along one side, and points of a bin


def roi_align(tokens: Tensor, boxes: Tensor, clip: Tensor, *, output_size: int = 7, sampling: int = 2) -> Tensor:
    """RoIAlign of boxes in the mean over time of a token map.

        map[b] = mean_t tokens[b, t]
        out[r, i, j] = mean_{m,n < s} map[clip[r]](y[r, i, m] · H' − 1/2, x[r, j, n] · W' − 1/2)
        x[r, j, n] = x1 + (x2 − x1) · (j + (n + 1/2) / s) / output_size,    y alike,    s = sampling

    map(v, u) is bilinear between the centres of the tokens, and constant from the outermost centres to the edge. This
    is the `aligned=True` convention, in which a box of one whole token gives that token in its middle. Boxes are
    relative, so neither the size of the clip nor that of a token enters.

    Bilinear weights are products of one of the row and one of the column. So the op is two small matrix products,
    which read each map once per box, and is differentiable in the tokens and in the boxes.

    Args:
        tokens: (B, T', H', W', D) floating, after the norm that the head expects: `tokens.unflatten(1, config.grid)` of
            `VideoMAEForClassification.tokens`, which has none, for example.
        boxes: (R, 4) floating, float32 or float64: x1, y1, x2, y2 in [0, 1], as shares of width and height of the clip.
        clip: (R,) int32 or int64, the number in [0, B) of the clip of each box.
        output_size: bins of a box in height and in width.
        sampling: points of a bin in height and in width; it is the same for every box, so that shapes are fixed.

    Returns:
        (R, output_size, output_size, D) in the dtype of the tokens, or of autocast. The head of the AVA code takes the
        largest of each channel, `.amax((1, 2))`.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or device, or is no number from 1 to 1024. On a CPU also: a box is
            empty or leaves [0, 1], or a clip does not exist. On a GPU values are not looked at, so the host does not
            wait.

    References:
        Mask R-CNN, arXiv 1703.06870, section 3. `modeling_finetune.py` of MCG-NJU/VideoMAE-Action-Detection has size 7
        and as many points as the box has tokens (`sampling_ratio` 0), which differ from box to box.
    """
    _check(tokens, boxes, clip, output_size, sampling)
    height, width = tokens.shape[2:4]
    x1, y1, x2, y2 = boxes.unbind(1)
    rows = _weights(y1, y2, height, output_size, sampling).to(tokens.dtype)
    columns = _weights(x1, x2, width, output_size, sampling).to(tokens.dtype)
    maps = tokens.mean(1)[clip]  # its backward sorts: that of index_select adds in any order on a GPU
    by_rows = torch.bmm(rows, maps.flatten(2)).view(len(boxes) * output_size, width, tokens.shape[4])
    return torch.bmm(columns.repeat_interleave(output_size, 0), by_rows).unflatten(0, (-1, output_size))


def _weights(start: Tensor, end: Tensor, tokens: int, bins: int, sampling: int) -> Tensor:
    """(R, bins, tokens): the weight of each token, along one side, in the mean over the points of each bin."""
    steps = (torch.arange(bins * sampling, device=start.device, dtype=start.dtype) + 0.5) / (bins * sampling)
    point = (start[:, None] + (end - start)[:, None] * steps) * tokens - 0.5  # between centres, which are whole numbers
    centre = torch.arange(tokens, device=start.device, dtype=start.dtype)
    distance = (point.clamp(0, tokens - 1)[..., None] - centre).abs()
    return (1 - distance).clamp(min=0).unflatten(1, (bins, sampling)).mean(2)


def _check(tokens: Tensor, boxes: Tensor, clip: Tensor, output_size: int, sampling: int) -> None:
    for name, value in (("output_size", output_size), ("sampling", sampling)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {value!r:.80}")
        if not 1 <= value <= _MOST:
            raise ValueError(f"{name} must be in [1, {_MOST}], got {value}")
    for name, tensor in (("tokens", tokens), ("boxes", boxes), ("clip", clip)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tokens.ndim != 5 or 0 in tokens.shape[1:]:
        raise ValueError(f"tokens must have shape (B, T', H', W', D), got {tuple(tokens.shape)}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (R, 4), got {tuple(boxes.shape)}")
    if clip.shape != boxes.shape[:1]:
        raise ValueError(
            f"clip must have shape ({len(boxes)},) as there are {len(boxes)} boxes, got {tuple(clip.shape)}"
        )
    if not tokens.is_floating_point():
        raise TypeError(f"tokens must be floating, got {tokens.dtype}")
    if boxes.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"boxes must be float32 or float64, got {boxes.dtype}")
    if clip.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"clip must be int32 or int64, got {clip.dtype}")
    for name, tensor in (("boxes", boxes), ("clip", clip)):
        if tensor.device != tokens.device:
            raise ValueError(f"{name} must be on {tokens.device} as the tokens, got {tensor.device}")
    if boxes.device.type == "cpu" and len(boxes):
        _check_values(boxes, clip, len(tokens))


def _check_values(boxes: Tensor, clip: Tensor, clips: int) -> None:
    inside = ((boxes >= 0) & (boxes <= 1)).all(1)  # False for NaN, too
    good = inside & (boxes[:, :2] < boxes[:, 2:]).all(1)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise ValueError(
            "boxes must be x1 < x2 and y1 < y2 in [0, 1], shares of the clip's width and height (divide pixels by "
            f"these, and clamp), got {[round(side, 4) for side in boxes[row].tolist()]} in row {row}"
        )
    low, high = (int(number) for number in clip.aminmax())
    if low < 0 or high >= clips:
        raise ValueError(f"clip must lie in [0, {clips}), the clips of tokens, got numbers from {low} to {high}")
