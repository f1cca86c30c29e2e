"""Comparisons, predicates, selections and moves."""

import itertools
import math
import operator

import numpy as np
import pytest

from tests.ptx.programs import apply, kernel
from tests.ptx.run import run_ptx

NAN, INF = float("nan"), float("inf")
ORDER = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
AS_NUMBER = "selp.b32 %d, 1, 0, %q;"


def compared(instruction: str, *operands: np.ndarray) -> list[bool]:
    found = apply(f".reg .pred %q; .reg .pred %o; {instruction} {AS_NUMBER}", *operands, out=np.uint32)
    return [bool(x) for x in found]


def grid_of(values: list, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    a, b = zip(*itertools.product(values, repeat=2), strict=True)
    return np.array(a, dtype), np.array(b, dtype)


@pytest.mark.parametrize("name", ORDER)
def test_signed_and_unsigned_integers(name):
    for kind, dtype in (("s32", np.int32), ("u32", np.uint32), ("s16", np.int16), ("u64", np.uint64)):
        bounds = np.iinfo(dtype)
        a, b = grid_of([bounds.min, 0, 1, bounds.max // 2, bounds.max], dtype)
        truth = [ORDER[name](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        assert compared(f"setp.{name}.{kind} %q, %a, %b;", a, b) == truth
    a, b = grid_of([0, 1, 2**32 - 1], np.uint32)
    other = {"lt": "lo", "le": "ls", "gt": "hi", "ge": "hs"}
    if name in other:
        assert compared(f"setp.{other[name]}.u32 %q, %a, %b;", a, b) == [
            ORDER[name](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)
        ]


@pytest.mark.parametrize("name", ORDER)
def test_floats_are_ordered_or_not(name):
    a, b = grid_of([NAN, -INF, -0.0, 0.0, 1.5, INF], np.float32)
    for suffix, unordered in (("", False), ("u", True)):
        truth = [
            unordered if math.isnan(x) or math.isnan(y) else ORDER[name](x, y)
            for x, y in zip(a.tolist(), b.tolist(), strict=True)
        ]
        assert compared(f"setp.{name}{suffix}.f32 %q, %a, %b;", a, b) == truth


def test_numbers_and_nan():
    a, b = grid_of([NAN, 1.0], np.float32)
    assert compared("setp.num.f32 %q, %a, %b;", a, b) == [False, False, False, True]
    assert compared("setp.nan.f32 %q, %a, %b;", a, b) == [True, True, True, False]


def test_bfloat16_is_compared_as_a_number():
    a, b = np.array([0x3F80, 0xBF80, 0x7FC0], np.uint16), np.array([0x4000, 0x3F80, 0x3F80], np.uint16)
    assert compared("setp.lt.bf16 %q, %a, %b;", a, b) == [True, True, False]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_comparisons_combine_with_a_predicate_and_give_their_opposite(name):
    a, b, c = np.array([1, 1, 2, 2]), np.array([2, 2, 1, 1]), np.array([0, 1, 0, 1])
    combine = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[name]
    less, other = [True, True, False, False], [False, True, False, True]
    a, b, c = (x.astype(np.uint32) for x in (a, b, c))
    for negated, flip in (("", False), ("!", True)):
        start = f".reg .pred %c1; setp.ne.u32 %c1, %c, 0; setp.lt.{name}.u32 "
        third = [x != flip for x in other]
        assert compared(f"{start}%q|%o, %a, %b, {negated}%c1;", a, b, c) == list(map(combine, less, third))
        opposite = [not x for x in less]
        assert compared(f"{start}%o|%q, %a, %b, {negated}%c1;", a, b, c) == list(map(combine, opposite, third))


def test_predicates_are_combined_and_negated():
    a, b = (np.array(x, np.uint32) for x in ([0, 0, 1, 1], [0, 1, 0, 1]))
    start = ".reg .pred %m; .reg .pred %n; setp.ne.u32 %m, %a, 0; setp.ne.u32 %n, %b, 0;"
    assert compared(f"{start} and.pred %q, %m, %n;", a, b) == [False, False, False, True]
    assert compared(f"{start} or.pred %q, %m, !%n;", a, b) == [True, False, True, True]
    assert compared(f"{start} xor.pred %q, %m, %n;", a, b) == [False, True, True, False]
    assert compared(f"{start} not.pred %q, %m;", a, b) == [True, True, False, False]
    assert compared(f"{start} mov.pred %q, %n;", a, b) == [False, True, False, True]
    assert compared("mov.pred %q, -1;", a) == [True] * 4


def test_guards_choose_lanes_and_others_keep_their_value():
    a = np.array([5, 6, 7, 8], np.uint32)
    body = ".reg .pred %q; setp.gt.u32 %q, %a, 6; mov.u32 %d, 1; @%q mov.u32 %d, 2; @!%q add.u32 %d, %d, 10;"
    assert apply(body, a, out=np.uint32).tolist() == [11, 11, 2, 2]


def test_selections_take_immediates_and_floats():
    a = np.array([0, 1], np.uint32)
    body = ".reg .pred %q; setp.ne.u32 %q, %a, 0; selp.f32 %d, 0f3F800000, 0fBF000000, %q;"
    assert apply(body, a, out=np.float32).tolist() == [-0.5, 1.0]


def test_registers_are_split_and_joined():
    a = np.array([0x1122334455667788], np.uint64)
    split = ".reg .b32 %lo; .reg .b32 %hi; mov.b64 {%lo, %hi}, %a;"
    assert apply(f"{split} mov.b32 %d, %hi;", a, out=np.uint32).tolist() == [0x11223344]
    assert apply(f"{split} mov.b64 %d, {{%hi, %lo}};", a, out=np.uint64).tolist() == [0x5566778811223344]
    quarters = ".reg .b16 %x0; .reg .b16 %x3; mov.b64 {%x0, _, _, %x3}, %a;"
    assert apply(f"{quarters} mov.b32 %d, {{%x3, %x0}};", a, out=np.uint32).tolist() == [0x77881122]


def test_branches_meet_again_and_loops_end_lane_by_lane():
    """Lane n adds 3 n times, odd lanes then add 100."""
    body = """
    .reg .b32 %i; .reg .b32 %s; .reg .pred %more; .reg .pred %even; .reg .b32 %one; .reg .b64 %at;
    mov.u32 %i, 0; mov.u32 %s, 0;
    $L_loop:
    setp.ge.u32 %more, %i, %t;
    @%more bra $L_end;
    add.u32 %s, %s, 3; add.u32 %i, %i, 1;
    bra.uni $L_loop;
    $L_end:
    and.b32 %one, %t, 1;
    setp.eq.u32 %even, %one, 0;
    @%even bra $L_join;
    add.u32 %s, %s, 100;
    $L_join:
    bar.warp.sync -1;
    mad.wide.u32 %at, %t, 4, %p0;
    st.global.u32 [%at], %s;
    """
    out = np.zeros(32, np.uint32)
    launch = run_ptx(kernel(body), [out])
    assert out.tolist() == [3 * n + 100 * (n % 2) for n in range(32)]
    # 32 turns of the test, 31 of the rest of the loop, for the warp; n + 1 and n for lane n.
    before, test, rest, after, odd, end = 4, 2, 3, 3, 1, 4
    assert launch.warp_instructions == before + 32 * test + 31 * rest + after + odd + end
    turns = sum(range(32))
    assert launch.thread_instructions == 32 * (before + after + end) + (turns + 32) * test + turns * rest + 16 * odd
