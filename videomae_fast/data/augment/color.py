"""The colour ops of RandAugment on a batch of clips on the device, bit for bit as Pillow does them on uint8 frames.

Pixels are float32 with whole values in [0, 255]; every op returns such values. Statistics are of a frame, channel by
channel. All arithmetic below is exact in float32, or done in float64 or integers where it is not.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .policy import GEOMETRIC, RandAugmentDraw
from .upload import upload

_LEVELS = 256
_SHARED_WEIGHTS = (19595, 38470, 7471)  # ITU-R 601 luma of red, green and blue, in units of 2⁻¹⁶


def apply_color(clips: Tensor, draws: Sequence[RandAugmentDraw]) -> Tensor:
    """Apply the colour ops of each clip's draw, in their order; geometric ops are left out.

    Clips that have a colour op are rounded to whole values first, and after every op, as uint8 frames are. The k-th
    colour ops of all clips are applied together, clips of the same op at once. The host knows which clips these are,
    so it never waits for the device.

    Args:
        clips: (B, 3, T, H, W) float32 in [0, 255]; overwritten.
        draws: of each clip.

    Returns:
        `clips`.

    Raises:
        ValueError: there are not as many draws as clips, or the clips have another shape.
        TypeError: `clips` are not float32.

    References:
        ImageOps and ImageEnhance of Pillow, as dataset/rand_augment.py of VideoMAE V2 calls them.
    """
    if clips.dtype != torch.float32:
        raise TypeError(f"clips must be float32, got {clips.dtype}")
    if clips.ndim != 5 or clips.shape[1] != 3:
        raise ValueError(f"clips must be (B, 3, T, H, W), got {tuple(clips.shape)}")
    if len(draws) != len(clips):
        raise ValueError(f"draws must have one draw for each of {len(clips)} clips, got {len(draws)}")
    groups = _groups(draws)
    if not groups:
        return clips
    index = upload(torch.tensor([clip for _, members in groups for clip, _ in members]), clips.device)
    amounts = torch.tensor([_amount(op, value) for op, members in groups for _, value in members])
    amounts = upload(amounts, clips.device)
    sizes = [len(members) for _, members in groups]
    recolored = torch.tensor(sorted({clip for _, members in groups for clip, _ in members}))
    recolored = upload(recolored, clips.device)
    clips.index_copy_(0, recolored, clips.index_select(0, recolored).round_())
    for (op, _), chosen, amount in zip(groups, index.split(sizes), amounts.split(sizes), strict=True):
        clips.index_copy_(0, chosen, _COLOR[op](clips.index_select(0, chosen), amount.view(-1, 1, 1, 1, 1)))
    return clips


def _groups(draws: Sequence[RandAugmentDraw]) -> list[tuple[str, list[tuple[int, float]]]]:
    """(op, [(clip, value), …]) in an order that is right for each clip."""
    waiting = [[one for one in draw if one.op not in GEOMETRIC] for draw in draws]
    groups: list[tuple[str, list[tuple[int, float]]]] = []
    for place in range(max(map(len, waiting), default=0)):
        members: dict[str, list[tuple[int, float]]] = {}
        for clip, ops in enumerate(waiting):
            if place < len(ops):
                members.setdefault(ops[place].op, []).append((clip, ops[place].value))
        groups.extend(members.items())
    return groups


def _amount(op: str, value: float) -> float:
    """What an op below takes: posterize the distance of its levels, as no device promises exact powers."""
    return 2 ** (8 - value) if op == "posterize" else value


def _autocontrast(x: Tensor, value: Tensor) -> Tensor:
    low, high = x.amin(dim=(3, 4)).double(), x.amax(dim=(3, 4)).double()
    level = torch.arange(_LEVELS, device=x.device, dtype=torch.float64)
    scale = torch.full_like(low, 255).div_(high - low)[..., None]  # `255 / x` is a rounded reciprocal times 255
    table = (level * scale - low[..., None] * scale).trunc().clamp(0, 255)
    return _look_up(x, torch.where((high > low)[..., None], table, level))


def _equalize(x: Tensor, value: Tensor) -> Tensor:
    count = _histogram(x)
    last = count.gather(3, x.amax(dim=(3, 4)).long()[..., None])  # pixels of the largest value of the frame
    step = (x.shape[3] * x.shape[4] - last) // 255
    below = count.cumsum(3) - count
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _look_up(x, torch.where(step > 0, table, torch.arange(_LEVELS, device=x.device)))


def _histogram(x: Tensor) -> Tensor:
    """(b, 3, T, 256) int64: pixels of each value. `bincount` would wait for the device."""
    rows = x.flatten(0, 2).flatten(1).long()
    bins = (rows + torch.arange(len(rows), device=x.device)[:, None] * _LEVELS).flatten()
    one = torch.ones((), dtype=torch.int64, device=x.device).expand_as(bins)
    count = torch.zeros(len(rows) * _LEVELS, dtype=torch.int64, device=x.device)
    return count.scatter_add_(0, bins, one).view(*x.shape[:3], _LEVELS)


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    """table[b, c, t, x[b, c, t, y, x]] for tables (b, 3, T, 256)."""
    return table.to(x.dtype).gather(3, x.flatten(3).long()).view_as(x)


def _invert(x: Tensor, value: Tensor) -> Tensor:
    return 255 - x


def _posterize(x: Tensor, step: Tensor) -> Tensor:
    return x.div_(step).floor_().mul_(step)


def _solarize(x: Tensor, threshold: Tensor) -> Tensor:
    return (x >= threshold).to(x.dtype).mul_(255).sub_(x).abs_()  # `where` takes four times as long on a CPU


def _solarize_add(x: Tensor, gain: Tensor) -> Tensor:
    return (x < 128).to(x.dtype).mul_(gain).add_(x).clamp_(max=255)


def _color(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_luma(x), x, factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    pixels = x.shape[3] * x.shape[4]
    total = _luma(x).sum(dim=(3, 4), keepdim=True, dtype=torch.float64).long()
    return _blend(((2 * total + pixels) // (2 * pixels)).to(x.dtype), x, factor)  # the mean, rounded


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(torch.zeros((), device=x.device), x, factor)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_smooth(x), x, factor)


def _luma(x: Tensor) -> Tensor:
    """(b, 1, T, H, W): rounded luma. All sums are whole and below 2²⁴."""
    red, green, blue = (weight * x[:, c : c + 1] for c, weight in enumerate(_SHARED_WEIGHTS))
    return red.add_(green).add_(blue).add_(2**15).mul_(2**-16).floor_()


def _smooth(x: Tensor) -> Tensor:
    """The 3 × 3 mean with weight 5 at the centre and 1 around it; the border stays as it is."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[..., 1:-1, 1:-1]
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
    return smooth


def _blend(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's: other + (x − other)·factor, clipped and cut off, not rounded. Products and sums round to float32."""
    return (x - other).mul_(factor).add_(other).clamp_(0, 255).floor_()


_COLOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
