"""weighted_mask_index: tokens drawn without replacement in proportion to weights, such as a teacher's attention."""

import torch
from torch import Tensor

from .._checks import FLOATING, INT64, check_count, check_seed, check_tensor
from .._custom_op import define_op
from .philox import MAX_STREAM, philox_keys

# -log2(1 - y) / y = Σ c[i] · (4·y - 1)**i for 0 < y <= 1/2, to a relative 2**-25; in units of 2**-30.
COEFFICIENTS = (1782572492, 282869828, 61369959, 15132330, 3999235, 1086449, 307070, 112172, 34063)

POSITION_BITS = 29  # of a float64's fraction, the rest of which is as long as float32's


def exponentials(keys: Tensor) -> Tensor:
    """Exponential random numbers in integer arithmetic alone, so that they are the same on every device.

        E = -log2((2·key + 1) / 2**32)

    U = (2·key + 1) / 2**32 is 2**-z · (1 - y) with the largest z that leaves 0 < y <= 1/2, so E = z - log2(1 - y). A
    float64 holds 2·key + 1 exactly: its exponent gives z, its fraction y.

    Args:
        keys: int64 in [0, 2³¹), as of `philox_keys`.

    Returns:
        int64 in (0, 2⁵²] of the same shape, in units of 2⁻⁴⁷, to a relative 2⁻²⁵ or 1 unit.
    """
    bits = keys.mul(2).add_(1).double().view(torch.int64)
    y = ((1 << 52) - (bits & (1 << 52) - 1)).bitwise_right_shift_(21)  # in units of 2**-32
    scaled = y - (1 << 30)
    ratio = torch.full_like(y, COEFFICIENTS[-1])
    for coefficient in COEFFICIENTS[-2::-1]:
        ratio.mul_(scaled).bitwise_right_shift_(30).add_(coefficient)
    whole = (1023 + 31) - bits.bitwise_right_shift_(52)
    return whole.bitwise_left_shift_(47).add_(ratio.mul_(y).bitwise_right_shift_(15))


def _reference(weights: Tensor, sample: Tensor, seed: int, stream: int, keep: int) -> Tensor:
    _, groups, positions = weights.shape
    drawn = exponentials(philox_keys(sample, seed, stream, groups * positions)).view(weights.shape)
    score = drawn.double().div_(weights.float().abs().double())  # abs: of -0, which would give -infinity
    # Of positive floats the bits are in order, too. Their last 29 give way to the position, so that no two are equal.
    order = score.view(torch.int64).bitwise_and_(-(1 << POSITION_BITS))
    order.bitwise_or_(torch.arange(positions, device=weights.device))
    kept = order.topk(keep, largest=False, sorted=False).values.bitwise_and_((1 << POSITION_BITS) - 1).sort().values
    first = torch.arange(groups, device=weights.device)[:, None] * positions
    return (kept + first).flatten(1)


def _allocate(weights: Tensor, sample: Tensor, seed: int, stream: int, keep: int) -> Tensor:
    return sample.new_empty((weights.shape[0], weights.shape[1] * keep))


def _launch(weights: Tensor, sample: Tensor, seed: int, stream: int, keep: int, out: Tensor) -> None:
    from .triton.weighted import weighted_index

    weighted_index(weights, sample, seed, stream, keep, out)


def _check(weights: Tensor, sample: Tensor, seed: int, stream: int, keep: int) -> None:
    weights = weights.float()
    if weights.numel() == 0:
        return
    low, high = (float(value) for value in weights.aminmax())
    if not (low >= 0 and high < torch.inf):
        raise ValueError(f"weights must be finite and at least 0 in float32, got values from {low:g} to {high:g}")
    positive = (weights > 0).sum(dim=2)
    if int(positive.min()) < keep:
        b, group = (positive < keep).nonzero()[0].tolist()
        raise ValueError(
            f"keep is larger than what has weight: {keep} tokens of each group, but {int(positive[b, group])} of the "
            f"{weights.shape[2]} weights in group {group} of sample {b} are positive"
        )


_op = define_op("weighted_index", _reference, _allocate, _launch, _check)


def weighted_mask_index(weights: Tensor, keep: int, sample: Tensor, *, seed: int, stream: int = 0) -> Tensor:
    """Visible tokens drawn without replacement, each with a probability proportional to its weight.

        U(n) = (2·key(n) + 1) / 2³²,   key = `philox_keys` of (seed, stream, sample number),   n = g·P + i
        visible = of each group g the `keep` tokens g·P + i of the smallest −log U(g·P + i) / weights[b, g, i]

    These are the tokens of the largest log w + Gumbel noise, and have the law of `torch.multinomial` without
    replacement: the first token is i with probability w[i] / Σ w, the next one follows the same law among the others,
    and so on. The groups are a clip's frames, or one group is the whole clip. Only ratios of weights count.

    A pure function of (seed, stream, sample number, the sample's weights), the same on every device: the logarithm is
    computed in integers, to a relative 2⁻²⁵, the quotient in float64, and quotients are compared to 24 significant
    bits. Of equal ones the lower position is kept. No host sync. No gradient.

    Tokens of weight 0 are not drawn while tokens of the group with positive weights are left. After these, on a GPU
    outside `check_indices()`, the lowest positions fill up what is missing of `keep`; on a CPU that is an error.
    Negative weights and NaN, which only a GPU lets pass, count as 0, and infinite ones as the largest float32.

    Args:
        weights: (B, G, P) floating, finite and not negative, of any strides: G groups of P tokens, G·P ≤ 2²⁹. Read as
            float32, in which float64 numbers below 10⁻⁴⁵ are 0.
        keep: tokens kept of each group, in [1, P].
        sample: (B,) int64 sample numbers, on the device of `weights`.
        seed: of the run, in [0, 2⁶³).
        stream: in [0, 2³²); masks of different streams are independent.

    Returns:
        (B, G·keep) int64 token numbers g·P + i, ascending.

    Raises:
        ValueError: `keep`, `seed` or `stream` is out of range, `weights` or `sample` has another shape, or (on a CPU
            and inside `check_indices()`) a weight is negative or not finite, or fewer than `keep` weights of a group
            are positive.
        TypeError: `weights` is not floating, `sample` is not int64, or a number is of another type.

    References:
        InternVideo2 (arXiv 2403.15377), stage 1, draws by `torch.multinomial` of attention, in
        single_modality/engines/engine_for_pretraining.py (OpenGVLab/InternVideo). P. Efraimidis and P. Spirakis,
        "Weighted random sampling with a reservoir", 2006, for the law; J. Salmon et al., SC 2011, for the generator.
    """
    check_tensor(weights, "weights", FLOATING, ("B", "G", "P"))
    check_tensor(sample, "sample", INT64, (weights.shape[0],), weights)
    groups, positions = weights.shape[1:]
    if not 1 <= groups * positions <= 1 << POSITION_BITS:
        raise ValueError(
            f"weights must be of 1 to 2**{POSITION_BITS} tokens of each sample, got (B, G, P) = {tuple(weights.shape)}"
        )
    keep = check_count(keep, "keep", high=positions)
    seed, stream = check_seed(seed), check_count(stream, "stream", 0, MAX_STREAM)
    return _op(weights.detach(), sample.contiguous(), seed, stream, keep)
