"""Floating-point instructions against fractions rounded once, and approximations against float64."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.programs import apply, number, rounded

RAW = {"f32": np.dtype("u4"), "f16": np.dtype("u2"), "bf16": np.dtype("u2")}
# zeros, smallest and largest subnormal, one and neighbours, largest, with both signs; no infinity and no NaN
EDGES = {
    "f32": [0, 1, 0x7FFFFF, 0x800000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x40490FDB, 0x7F7FFFFF],
    "f16": [0, 1, 0x3FF, 0x400, 0x3BFF, 0x3C00, 0x3C01, 0x4248, 0x7BFF],
    "bf16": [0, 1, 0x7F, 0x80, 0x3F7F, 0x3F80, 0x3F81, 0x4049, 0x7F7F],
}
SIGN = {"f32": 1 << 31, "f16": 1 << 15, "bf16": 1 << 15}


def finite(kind: str, count: int, seed: int) -> list[int]:
    """Random bits, and of half of them the exponents near that of one: sums then meet."""
    draw, found = random.Random(seed), []
    while len(found) < count:
        raw = draw.getrandbits(8 * RAW[kind].itemsize)
        if len(found) % 2:
            digits = {"f32": 23, "f16": 10, "bf16": 7}[kind]
            raw = raw & SIGN[kind] | (EDGES[kind][5] + (draw.randint(-3, 3) << digits)) | raw & ((1 << digits) - 1)
        if isinstance(number(raw, kind), Fraction):
            found.append(raw)
    return found


def operands(kind: str, count: int) -> list[list[int]]:
    edges = EDGES[kind] + [e | SIGN[kind] for e in EDGES[kind]]
    listed = list(itertools.product(edges, repeat=count)) if count < 3 else []
    columns = [finite(kind, 500, seed) for seed in range(count)]
    return [[row[i] for row in listed] + columns[i] for i in range(count)]


def check(instruction: str, truth, kind: str, columns: list[list[int]]) -> None:
    found = apply(instruction, *(np.array(c, RAW[kind]) for c in columns), out=RAW[kind])
    for raw, row in zip(found.tolist(), zip(*columns, strict=True), strict=True):
        wanted = rounded(truth(*(number(x, kind) for x in row)), kind)
        assert number(raw, kind) == wanted, [number(x, kind) for x in row]


def modified(kind: str) -> str:
    return f"rn.{kind}" if kind != "f32" else "f32"


@pytest.mark.parametrize("kind", RAW)
@pytest.mark.parametrize(
    ("name", "truth"), [("add", lambda x, y: x + y), ("sub", lambda x, y: x - y), ("mul", lambda x, y: x * y)]
)
def test_basic_arithmetic_is_rounded_once(name, truth, kind):
    check(f"{name}.{modified(kind)} %d, %a, %b;", truth, kind, operands(kind, 2))


@pytest.mark.parametrize("kind", RAW)
def test_fused_multiply_add_is_rounded_once(kind):
    check(f"fma.rn.{kind} %d, %a, %b, %c;", lambda x, y, z: x * y + z, kind, operands(kind, 3))


def test_fused_multiply_add_is_not_rounded_to_float64_first():
    """1 + 2⁻²³ + 2⁻²⁴ - 2⁻⁷⁰: float64 drops the last term, and what is left, a middle, would be rounded to even: up."""
    x, y = np.float32(1 + 2.0**-23), np.float32((1 - 2.0**-23) * 2.0**-24)
    z = np.float32(1 + 2.0**-23)
    for sign in (1, -1):
        rows = [np.array([a], np.float32) for a in (x, sign * y, sign * z)]
        assert np.float32(float(x) * float(sign * y) + float(sign * z)) == sign * np.float32(1 + 2.0**-22)
        assert apply("fma.rn.f32 %d, %a, %b, %c;", *rows, out=np.float32)[0] == sign * z


def test_quotients_and_roots_are_rounded_once():
    columns = operands("f32", 2)
    a, b = zip(*[(x, y) for x, y in zip(*columns, strict=True) if number(y, "f32") != 0], strict=True)
    check("div.rn.f32 %d, %a, %b;", lambda x, y: x / y, "f32", [list(a), list(b)])
    check("rcp.rn.f32 %d, %a;", lambda x: 1 / x, "f32", [list(b)])
    roots = [x for x in columns[0] if number(x, "f32") >= 0]
    found = apply("sqrt.rn.f32 %d, %a;", np.array(roots, np.uint32), out=np.float32).astype(float)
    for raw, root in zip(roots, found, strict=True):  # the square of a neighbour's middle must lie beyond
        below, above = (
            (Fraction(root) + Fraction(float(np.nextafter(np.float32(root), np.float32(to))))) / 2
            for to in (-1, np.inf)
        )
        assert below**2 <= number(raw, "f32") <= above**2 or root == 0


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_both_halves_of_a_packed_pair(kind):
    columns = [np.array(c, np.uint16)[: len(c) // 2 * 2] for c in operands(kind, 3)]
    one = apply(f"fma.rn.{kind} %d, %a, %b, %c;", *columns, out=np.uint16)
    both = apply(f"fma.rn.{kind}x2 %d, %a, %b, %c;", *(c.view(np.uint32) for c in columns), out=np.uint32)
    assert np.array_equal(both.view(np.uint16), one)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


NAN, INF = float("nan"), float("inf")


def test_a_nan_gives_way_in_a_minimum_and_zeros_have_an_order():
    a, b = floats(NAN, 1, NAN, -0.0, 0.0, -1, INF), floats(1, NAN, NAN, 0.0, -0.0, 2, 3)
    low, high = (apply(f"{name}.f32 %d, %a, %b;", a, b, out=np.uint32) for name in ("min", "max"))
    quiet = np.array([0x7FFFFFFF], np.uint32).view(np.float32)[0]
    assert low.tolist() == floats(1, 1, quiet, -0.0, -0.0, -1, 3).view(np.uint32).tolist()
    assert high.tolist() == floats(1, 1, quiet, 0.0, 0.0, 2, INF).view(np.uint32).tolist()


def test_a_nan_wins_where_it_is_asked_for():
    found = apply("max.NaN.f32 %d, %a, %b;", floats(NAN, 1, 3), floats(1, NAN, 2), out=np.uint32)
    assert found.tolist() == [0x7FFFFFFF, 0x7FFFFFFF, 0x40400000]


@pytest.mark.parametrize("instruction", ["add.ftz.f32 %d, %a, %b;", "mul.ftz.f32 %d, %a, %b;"])
def test_subnormal_numbers_are_flushed_if_the_instruction_says_so(instruction):
    tiny = floats(1e-40, -1e-40, 1e-30, 1.5e-38)
    other = floats(0, 0, 1e-10, 1)
    exact = tiny + other if "add" in instruction else tiny * other
    flushed = np.where(np.abs(tiny) < 2.0**-126, np.copysign(floats(0), tiny), tiny)
    wanted = flushed + other if "add" in instruction else flushed * other
    wanted = np.where(np.abs(wanted) < 2.0**-126, np.copysign(floats(0), wanted), wanted)
    assert np.array_equal(apply(instruction, tiny, other, out=np.float32), wanted)
    assert np.array_equal(apply(instruction.replace(".ftz", ""), tiny, other, out=np.float32), exact)


def test_saturation():
    found = apply(
        "add.sat.f32 %d, %a, %b;", floats(0.25, 0.75, -1, NAN, INF), floats(0.5, 0.75, 0.5, 1, 1), out=np.float32
    )
    assert found.tolist() == [0.75, 1, 0, 0, 1]


def test_signs_change_in_nan_too():
    raw = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x3F800000], np.uint32)
    assert apply("neg.f32 %d, %a;", raw, out=np.uint32).tolist() == (raw ^ np.uint32(1 << 31)).tolist()
    assert apply("abs.f32 %d, %a;", raw, out=np.uint32).tolist() == (raw & np.uint32(0x7FFFFFFF)).tolist()


@pytest.mark.parametrize(
    ("instruction", "truth", "low", "high"),
    [
        ("ex2.approx.ftz.f32", np.exp2, -100, 100),
        ("lg2.approx.ftz.f32", np.log2, 1e-6, 1e6),
        ("rcp.approx.ftz.f32", lambda x: 1 / x, 1e-6, 1e6),
        ("rsqrt.approx.ftz.f32", lambda x: x**-0.5, 1e-6, 1e6),
        ("sqrt.approx.ftz.f32", np.sqrt, 0, 1e6),
        ("tanh.approx.f32", np.tanh, -5, 5),
        ("sin.approx.f32", np.sin, -3, 3),
        ("cos.approx.f32", np.cos, -3, 3),
    ],
)
def test_approximations_are_within_one_rounding(instruction, truth, low, high):
    x = np.random.default_rng(0).uniform(low, high, 300).astype(np.float32)
    found = apply(f"{instruction} %d, %a;", x, out=np.float32)
    np.testing.assert_allclose(found, truth(x.astype(np.float64)), rtol=2.0**-24, atol=0)


@pytest.mark.parametrize("form", ["div.full.f32", "div.full.ftz.f32", "div.approx.f32"])
def test_approximate_quotients(form):
    a, b = np.random.default_rng(0).uniform(0.1, 100, (2, 300)).astype(np.float32)
    found = apply(f"{form} %d, %a, %b;", a, b, out=np.float32)
    np.testing.assert_allclose(found, a.astype(np.float64) / b, rtol=2.0**-24, atol=0)
