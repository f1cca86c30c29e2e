"""Integer instructions against Python's integers."""

import itertools
import random

import numpy as np
import pytest

from tests.ptx.programs import apply

DTYPES = {f"{k}{b}": np.dtype(f"{'i' if k == 's' else 'u'}{b // 8}") for k in "su" for b in (16, 32, 64)}


def numbers(kind: str, count: int = 24) -> list[int]:
    """The ends of the range, small numbers, and random ones."""
    low, high = np.iinfo(DTYPES[kind]).min, np.iinfo(DTYPES[kind]).max
    draw = random.Random(7)
    return [
        int(low),
        int(high),
        int(low) + 1,
        0,
        1,
        2,
        3,
        7,
        *(draw.randint(int(low), int(high)) for _ in range(count)),
    ]


def pairs(kind: str) -> tuple[list[int], list[int]]:
    a, b = zip(*itertools.product(numbers(kind, 12), repeat=2), strict=True)
    return list(a), list(b)


def wrapped(value: int, dtype: np.dtype) -> int:
    width = 8 * dtype.itemsize
    value &= (1 << width) - 1
    return value - (1 << width) if dtype.kind == "i" and value >> (width - 1) else value


def check(instruction: str, truth, kind: str, *operands: list[int], types=None, out: np.dtype | None = None) -> None:
    out = DTYPES[kind] if out is None else np.dtype(out)
    dtypes = types or [DTYPES[kind]] * len(operands)
    arrays = [np.array(x, dtype) for x, dtype in zip(operands, dtypes, strict=True)]
    found = apply(instruction, *arrays, out=out).tolist()
    assert found == [wrapped(truth(*x), out) for x in zip(*operands, strict=True)]


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, kind):
    check(f"{name}.{kind} %d, %a, %b;", BINARY[name], kind, *pairs(kind))


@pytest.mark.parametrize("kind", ["s16", "u16"])
@pytest.mark.parametrize("name", ["add", "min", "max"])
def test_binary_of_both_halves(name, kind):
    a, b = (np.array(x, DTYPES[kind]) for x in pairs(kind))
    found = apply(f"{name}.{kind}x2 %d, %a, %b;", *(x.view(np.uint32) for x in (a, b)), out=np.uint32)
    truth = [wrapped(BINARY[name](x, y), a.dtype) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.view(a.dtype).tolist() == truth


@pytest.mark.parametrize("kind", DTYPES)
def test_division(kind):
    a, b = zip(*[(x, y) for x, y in zip(*pairs(kind), strict=True) if y], strict=True)
    check(f"div.{kind} %d, %a, %b;", quotient, kind, a, b)
    check(f"rem.{kind} %d, %a, %b;", lambda x, y: x - quotient(x, y) * y, kind, a, b)


@pytest.mark.parametrize("kind", DTYPES)
def test_high_half_of_a_product(kind):
    width = 8 * DTYPES[kind].itemsize
    check(f"mul.hi.{kind} %d, %a, %b;", lambda x, y: x * y >> width, kind, *pairs(kind))
    a, b = pairs(kind)
    check(f"mad.hi.{kind} %d, %a, %b, %c;", lambda x, y, z: (x * y >> width) + z, kind, a, b, b[::-1])


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_wide_product(kind):
    out = np.dtype(f"{DTYPES[kind].kind}{2 * DTYPES[kind].itemsize}")
    a, b = pairs(kind)
    check(f"mul.wide.{kind} %d, %a, %b;", lambda x, y: x * y, kind, a, b, out=out)
    check(
        f"mad.wide.{kind} %d, %a, %b, %c;",
        lambda x, y, z: x * y + z,
        kind,
        a,
        b,
        a[::-1],
        types=[DTYPES[kind], DTYPES[kind], out],
        out=out,
    )


@pytest.mark.parametrize("kind", DTYPES)
def test_multiply_add_and_difference(kind):
    a, b = pairs(kind)
    check(f"mad.lo.{kind} %d, %a, %b, %c;", lambda x, y, z: x * y + z, kind, a, b, b[::-1])
    if not kind.endswith("64"):
        check(f"sad.{kind} %d, %a, %b, %c;", lambda x, y, z: z + abs(x - y), kind, a, b, b[::-1])


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_sign(kind):
    check(f"neg.{kind} %d, %a;", lambda x: -x, kind, numbers(kind))
    check(f"abs.{kind} %d, %a;", abs, kind, numbers(kind))


@pytest.mark.parametrize("kind", ["u16", "u32", "u64"])
def test_bitwise(kind):
    bits = kind.replace("u", "b")
    for name, truth in {"and": int.__and__, "or": int.__or__, "xor": int.__xor__}.items():
        check(f"{name}.{bits} %d, %a, %b;", truth, kind, *pairs(kind))
    check(f"not.{bits} %d, %a;", lambda x: ~x, kind, numbers(kind))
    check(f"cnot.{bits} %d, %a;", lambda x: int(x == 0), kind, numbers(kind))


@pytest.mark.parametrize("kind", DTYPES)
def test_shifts_clamp_at_the_width(kind):
    width = 8 * DTYPES[kind].itemsize
    a, by = zip(*itertools.product(numbers(kind), (0, 1, 5, width - 1, width, width + 1, 255, 2**31)), strict=True)
    types = [DTYPES[kind], np.dtype("u4")]
    check(f"shl.b{width} %d, %a, %b;", lambda x, n: x << min(n, 64), kind, a, by, types=types)
    check(f"shr.{kind} %d, %a, %b;", lambda x, n: x >> min(n, 64), kind, a, by, types=types)


def test_funnel_shifts():
    low, high, by = zip(*itertools.product(numbers("u32", 3), numbers("u32", 3), (0, 1, 13, 31, 32, 40)), strict=True)
    for mode, amount in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        both = {"l": lambda x, y, n: ((y << 32 | x) << n) >> 32, "r": lambda x, y, n: (y << 32 | x) >> n}
        for side, shift in both.items():
            truth = lambda x, y, n, shift=shift, amount=amount: shift(x, y, amount(n))  # noqa: E731
            check(f"shf.{side}.{mode}.b32 %d, %a, %b, %c;", truth, "u32", low, high, by)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind):
    width = 8 * DTYPES[kind].itemsize

    def extracted(x, position, length):
        """The loop of the PTX manual."""
        bit = lambda i: x >> i & 1  # noqa: E731
        fill = 0 if kind[0] == "u" or not length else bit(min(position + length - 1, width - 1))
        return sum((bit(position + i) if i < length and position + i < width else fill) << i for i in range(width))

    a, at, length = zip(
        *itertools.product(numbers(kind, 6), (0, 1, 9, width - 1, width, 255), (0, 1, 7, width, 255)), strict=True
    )
    types = [DTYPES[kind], np.dtype("u4"), np.dtype("u4")]
    check(f"bfe.{kind} %d, %a, %b, %c;", extracted, kind, a, at, length, types=types)


def test_insertion_of_a_bit_field():
    def inserted(x, y, position, length):
        for i in range(length):
            if position + i < 32:
                y = y & ~(1 << position + i) | (x >> i & 1) << position + i
        return y

    a, b, at, length = zip(
        *itertools.product(numbers("u32", 3)[:6], numbers("u32", 3)[:6], (0, 3, 31), (0, 1, 8, 32)), strict=True
    )
    check("bfi.b32 %d, %a, %b, %c, %e;", inserted, "u32", a, b, at, length)


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_counting_bits(kind):
    width, bits = 8 * DTYPES[kind].itemsize, kind.replace("u", "b")
    u4 = np.dtype("u4")
    check(f"popc.{bits} %d, %a;", lambda x: bin(x).count("1"), kind, numbers(kind), out=u4)
    check(f"clz.{bits} %d, %a;", lambda x: width - x.bit_length(), kind, numbers(kind), out=u4)
    check(f"brev.{bits} %d, %a;", lambda x: int(f"{x:0{width}b}"[::-1], 2), kind, numbers(kind))
    check(f"bfind.{kind} %d, %a;", lambda x: x.bit_length() - 1, kind, numbers(kind), out=u4)
    shift = lambda x: width - x.bit_length() if x else -1  # noqa: E731
    check(f"bfind.shiftamt.{kind} %d, %a;", shift, kind, numbers(kind), out=u4)


def test_byte_permutation():
    draw = random.Random(3)
    low, high, selector = ([draw.getrandbits(32) for _ in range(200)] for _ in range(3))

    def permuted(x, y, s):
        stored = (y << 32 | x).to_bytes(8, "little")
        chosen = [(stored[s >> 4 * i & 7], s >> 4 * i & 8) for i in range(4)]
        return int.from_bytes(bytes((255 if b > 127 else 0) if sign else b for b, sign in chosen), "little")

    check("prmt.b32 %d, %a, %b, %c;", permuted, "u32", low, high, selector)


@pytest.mark.parametrize("table", [0x00, 0x80, 0xE8, 0x96, 0x1B, 0xFF])
def test_any_function_of_three_bits(table):
    draw = random.Random(3)
    a, b, c = ([draw.getrandbits(32) for _ in range(40)] for _ in range(3))

    def looked_up(x, y, z):
        return sum((table >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | (z >> i & 1)) & 1) << i for i in range(32))

    check(f"lop3.b32 %d, %a, %b, %c, {table};", looked_up, "u32", a, b, c)
