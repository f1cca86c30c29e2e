"""Conversions against fractions and Python's integers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.programs import apply, number, rounded
from tests.ptx.test_floating import EDGES, RAW, SIGN, finite

NAN, INF = float("nan"), float("inf")
MODES = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
INTEGERS = {f"{k}{b}": np.dtype(f"{'i' if k == 's' else 'u'}{b // 8}") for k in "su" for b in (8, 16, 32, 64)}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("mode", MODES)
def test_floats_to_integers_round_and_clamp(mode, kind):
    x = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -0.2,
        0.0,
        126.5,
        255.5,
        300.0,
        -300.0,
        40000.0,
        3e9,
        -3e9,
        1e19,
        -1e19,
        2.0**63,
        4e38,
    ]
    x = np.array([*x, INF, -INF], np.float32)
    bounds = np.iinfo(INTEGERS[kind])
    wanted = [
        (bounds.max if v > 0 else bounds.min) if math.isinf(v) else min(max(MODES[mode](v), bounds.min), bounds.max)
        for v in x.tolist()
    ]
    assert apply(f"cvt.{mode}.{kind}.f32 %d, %a;", x, out=INTEGERS[kind]).tolist() == wanted


def test_nan_becomes_an_integer():
    x = np.array([NAN], np.float32)
    assert apply("cvt.rzi.s32.f32 %d, %a;", x, out=np.int32).tolist() == [0]
    assert apply("cvt.rzi.u64.f32 %d, %a;", x, out=np.uint64).tolist() == [1 << 63]
    assert apply("cvt.rzi.s64.f32 %d, %a;", x, out=np.int64).tolist() == [-(1 << 63)]


@pytest.mark.parametrize("kind", [kind for kind in INTEGERS if not kind.endswith("8")])
@pytest.mark.parametrize("target", ["f32", "f16"])
def test_integers_to_floats_are_rounded_once(target, kind):
    bounds = np.iinfo(INTEGERS[kind])
    draw = np.random.default_rng(0).integers(bounds.min, bounds.max, 300, dtype=INTEGERS[kind], endpoint=True)
    middles = [v for e in (24, 25, 40, 62) for v in (2**e + 1, 2**e + 2 ** (e - 24), 3 * 2 ** (e - 1) + 2 ** (e - 24))]
    values = [*draw.tolist(), 0, 1, bounds.min, bounds.max, 2049, 2051, *middles]
    values = [v for v in values if bounds.min <= v <= bounds.max]
    found = apply(f"cvt.rn.{target}.{kind} %d, %a;", np.array(values, INTEGERS[kind]), out=RAW[target])
    assert [number(raw, target) for raw in found.tolist()] == [rounded(Fraction(v), target) for v in values]


@pytest.mark.parametrize(
    ("target", "source"), [("s64", "s32"), ("u64", "u16"), ("u16", "u32"), ("s32", "s8"), ("u32", "u64")]
)
def test_integers_keep_their_low_bits_and_sign(target, source):
    bounds = np.iinfo(INTEGERS[source])
    values = [bounds.min, bounds.max, 0, 1, bounds.max // 3]
    found = apply(f"cvt.{target}.{source} %d, %a;", np.array(values, INTEGERS[source]), out=INTEGERS[target])
    width = 8 * INTEGERS[target].itemsize
    assert [v % (1 << width) for v in found.tolist()] == [v % (1 << width) for v in values]


def test_integers_saturate():
    values = np.array([-(2**31), -300, -1, 0, 200, 2**31 - 1], np.int32)
    assert apply("cvt.sat.u8.s32 %d, %a;", values, out=np.uint8).tolist() == [0, 0, 0, 0, 200, 255]
    assert apply("cvt.sat.s8.s32 %d, %a;", values, out=np.int8).tolist() == [-128, -128, -1, 0, 127, 127]
    large = np.array([2**32 - 1, 5], np.uint32)
    assert apply("cvt.sat.s32.u32 %d, %a;", large, out=np.int32).tolist() == [2**31 - 1, 5]


def float32_near(kind: str) -> list[int]:
    """float32 bits: random ones, and middles between two neighbours of the narrow type, with their own neighbours."""
    found = finite("f32", 400, 1)
    for edge in EDGES[kind][:-1]:
        low, high = number(edge, kind), number(edge + 1, kind)
        middle = np.float32(float((low + high) / 2))
        for x in (middle, np.nextafter(middle, np.float32(-INF)), np.nextafter(middle, np.float32(INF))):
            found += [int(x.view(np.uint32)), int(x.view(np.uint32)) | SIGN["f32"]]
    return found


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrow_floats_are_rounded_to_nearest_even(kind):
    values = float32_near(kind)
    found = apply(f"cvt.rn.{kind}.f32 %d, %a;", np.array(values, np.uint32), out=np.uint16).tolist()
    assert [number(x, kind) for x in found] == [rounded(number(x, "f32"), kind) for x in values]
    packed = apply(f"cvt.rn.{kind}x2.f32 %d, %a, %b;", *np.array([values, values[::-1]], np.uint32), out=np.uint32)
    assert (packed >> 16).tolist() == found  # the first operand is the upper half
    assert (packed & 0xFFFF).tolist() == found[::-1]


def test_special_values_of_narrow_floats():
    x = np.array([NAN, INF, -INF, 3.4e38, -0.0], np.float32)
    assert apply("cvt.rn.bf16.f32 %d, %a;", x, out=np.uint16).tolist() == [0x7FFF, 0x7F80, 0xFF80, 0x7F80, 0x8000]
    assert apply("cvt.rz.bf16.f32 %d, %a;", x[3:], out=np.uint16).tolist() == [0x7F7F, 0x8000]
    assert apply("cvt.rn.f16.f32 %d, %a;", x[1:], out=np.uint16).tolist() == [0x7C00, 0xFC00, 0x7C00, 0x8000]
    assert apply("cvt.rn.relu.bf16.f32 %d, %a;", -x[1:3], out=np.uint16).tolist() == [0, 0x7F80]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrow_floats_widen_exactly(kind):
    raw = np.arange(0, 2**16, 7, dtype=np.uint16)
    for first in range(0, len(raw), 1024):
        part = raw[first : first + 1024]
        found = apply(f"cvt.f32.{kind} %d, %a;", part, out=np.uint32)
        for x, y in zip(part.tolist(), found.tolist(), strict=True):
            wanted = number(x, kind)
            assert number(y, "f32") == wanted or math.isnan(wanted)


@pytest.mark.parametrize("mode", MODES)
def test_floats_to_whole_floats(mode):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.2, 1e9, 7.0], np.float32)
    found = apply(f"cvt.{mode}.f32.f32 %d, %a;", x, out=np.float32)
    assert found.tolist() == [MODES[mode](v) for v in x.tolist()]


def test_subnormal_sources_are_flushed_if_the_instruction_says_so():
    x = np.array([1e-40, 1.0], np.float32)
    assert apply("cvt.ftz.f32.f32 %d, %a;", x, out=np.float32).tolist() == [0, 1]
    assert apply("cvt.sat.f32.f32 %d, %a;", np.array([-2, 0.5, 3, NAN], np.float32), out=np.float32).tolist() == [
        0,
        0.5,
        1,
        0,
    ]


def test_float64_on_the_way():
    x = np.array([1 + 2.0**-24 + 2.0**-50, 1 + 2.0**-24, 1e300], np.float64)
    assert apply("cvt.rn.f32.f64 %d, %a;", x, out=np.float32).tolist() == [1 + 2.0**-23, 1, INF]
    assert apply("cvt.f64.f32 %d, %a;", np.array([0.1], np.float32), out=np.float64).tolist() == [
        float(np.float32(0.1))
    ]
