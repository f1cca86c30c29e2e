"""RandAugment as data: which ops a clip gets, and how strong. Two backends apply the same draw to pixels."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MAX_MAGNITUDE = 10
PROBABILITY = 0.5  # that a drawn op is applied
FILL = 128  # value of pixels from outside of the frame
_FORM = "rand-m<magnitude>-n<ops>-mstd<deviation>-inc1"


def _enhancement(level: float, sign: int) -> float:
    return 1 + sign * (level * 0.9)


def _shear(level: float, sign: int) -> float:
    return sign * (level * 0.3)


def _translation(level: float, sign: int) -> float:
    return sign * (level * 0.45)


# Value of each op from level = magnitude / 10 in [0, 1] and a sign; in the published order.
_VALUES: dict[str, Callable[[float, int], float]] = {
    "autocontrast": lambda level, sign: 0.0,
    "equalize": lambda level, sign: 0.0,
    "invert": lambda level, sign: 0.0,
    "rotate": lambda level, sign: sign * (level * 30),
    "posterize": lambda level, sign: max(1, 4 - int(level * 4)),
    "solarize": lambda level, sign: 256 - min(256, int(level * 256)),
    "solarize_add": lambda level, sign: min(128, int(level * 110)),
    "color": _enhancement,
    "contrast": _enhancement,
    "brightness": _enhancement,
    "sharpness": _enhancement,
    "shear_x": _shear,
    "shear_y": _shear,
    "translate_x": _translation,
    "translate_y": _translation,
}
OPS = tuple(_VALUES)
GEOMETRIC = frozenset({"rotate", "shear_x", "shear_y", "translate_x", "translate_y"})


def op_value(op: str, magnitude: float, negative: bool) -> float:
    """The value that an op of some magnitude is applied with.

    Args:
        op: one of OPS.
        magnitude: in [0, 10].
        negative: the drawn sign; ops without one ignore it.

    Returns:
        rotate: degrees, counter-clockwise. shear: columns per row, or rows per column. translate: share of the side.
        posterize: bits to keep. solarize: the least value that is inverted. solarize_add: what values below 128 gain.
        color, contrast, brightness, sharpness: factor, 1 for none. Others: 0, unused.
    """
    return float(_VALUES[op](magnitude / MAX_MAGNITUDE, -1 if negative else 1))


class AppliedOp(NamedTuple):
    """One op of a draw.

    Attributes:
        op: one of OPS.
        value: as `op_value` returns it.
    """

    op: str
    value: float


RandAugmentDraw = tuple[AppliedOp, ...]  # of one clip, the same for all of its frames, in the order of application


class RandAugment(NamedTuple):
    """A policy: n ops are drawn with replacement from 15; each is applied with probability 1/2.

    The magnitude of an op is normal with mean m and deviation `std`, clipped to [0, 10]; it is drawn once per op and
    clip, as is its sign. The published posterize keeps 0 bits at magnitude 10, which Pillow refuses: here it keeps 1.

    Attributes:
        magnitude: m, in [0, 10].
        num_ops: n.
        std: standard deviation of the magnitude.
    """

    magnitude: float
    num_ops: int = 2
    std: float = 0.0

    def draw(self, rng: np.random.Generator) -> RandAugmentDraw:
        """Draw the ops of one clip.

        Args:
            rng: of this clip alone; how many numbers it gives depends on what comes out.

        Returns:
            The ops that are applied, between 0 and `num_ops`.
        """
        drawn = rng.integers(len(OPS), size=self.num_ops)
        applied = rng.random(self.num_ops) < PROBABILITY
        magnitude = np.clip(self.magnitude + self.std * rng.standard_normal(self.num_ops), 0, MAX_MAGNITUDE)
        negative = rng.random(self.num_ops) < 0.5
        return tuple(
            AppliedOp(OPS[drawn[i]], op_value(OPS[drawn[i]], float(magnitude[i]), bool(negative[i])))
            for i in np.flatnonzero(applied)
        )


def parse_rand_augment(policy: str) -> RandAugment:
    """Read a policy in the published form, such as "rand-m7-n4-mstd0.5-inc1".

    Args:
        policy: "rand", then in any order, joined by "-": m and the magnitude, n and the number of ops (2 if absent),
            mstd and the deviation of the magnitude (0 if absent), and inc1, which is required: it names the set of
            ops whose strength grows with the magnitude, the only set there is.

    Returns:
        The policy.

    Raises:
        ValueError: the string has another form, a part is missing or repeated, or a number is out of range.

    References:
        `rand_augment_transform` of VideoMAE V2, dataset/rand_augment.py, and of timm; Cubuk et al., RandAugment,
        CVPR workshops 2020.
    """
    kind, *parts = policy.split("-")
    if kind != "rand":
        raise ValueError(f"rand_augment must have the form {_FORM}, got {policy!r}")
    found: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"(mstd|m|n|inc)(\d+(?:\.\d+)?)", part)
        if match is None:
            raise ValueError(
                f"rand_augment has the unknown part {part!r}; it must have the form {_FORM}, got {policy!r}"
            )
        if match[1] in found:
            raise ValueError(f"rand_augment has {match[1]} twice, got {policy!r}")
        found[match[1]] = float(match[2])
    if found.get("inc") != 1:
        raise ValueError(f"rand_augment needs inc1, as only ops that grow with the magnitude exist, got {policy!r}")
    if not 0 <= found.get("m", -1) <= MAX_MAGNITUDE:
        raise ValueError(f"rand_augment needs m with a magnitude in [0, {MAX_MAGNITUDE}], got {policy!r}")
    num_ops = found.get("n", 2)
    if num_ops < 1 or num_ops != int(num_ops):
        raise ValueError(f"rand_augment needs n with a positive number of ops, got {policy!r}")
    return RandAugment(found["m"], int(num_ops), found.get("mstd", 0.0))
