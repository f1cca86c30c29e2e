"""Shuffles, reductions and votes against loops over lanes, and their traps."""

import random

import numpy as np
import pytest

from tests.ptx import Trap
from tests.ptx.programs import apply, kernel
from tests.ptx.run import run_ptx


def source_lane(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The pseudocode of the PTX manual."""
    segment, clamp = c >> 8 & 31, c & 31
    highest, lowest = lane & segment | clamp & ~segment, lane & segment
    if mode == "up":
        wanted = lane - b
        inside = wanted >= highest
    elif mode == "down":
        wanted = lane + b
        inside = wanted <= highest
    elif mode == "bfly":
        wanted = lane ^ b
        inside = wanted <= highest
    else:
        wanted = lowest | b & ~segment
        inside = wanted <= highest
    return (wanted if inside else lane), inside


CLAMPS = {"up": (0, 0x1800, 0x1000), "down": (31, 0x181F, 0x101F), "bfly": (31, 0x181F), "idx": (31, 0x1C1F, 7)}


@pytest.mark.parametrize("mode", CLAMPS)
def test_shuffles(mode):
    values = np.array([random.Random(1).getrandbits(32) for _ in range(64)], np.uint32)
    for c in CLAMPS[mode]:
        for b in (0, 1, 3, 8, 16, 31):
            form = f".reg .pred %q; shfl.sync.{mode}.b32 %d|%q, %a, {b}, {c}, -1;"
            found = apply(form, values, out=np.uint32).tolist()
            inside = apply(f"{form} selp.b32 %d, 1, 0, %q;", values, out=np.uint32).tolist()
            for lane in range(64):
                source, within = source_lane(mode, lane % 32, b, c)
                assert found[lane] == values[lane // 32 * 32 + source]
                assert inside[lane] == within


def test_a_shuffle_by_a_register():
    values = np.arange(32, dtype=np.uint32) * 10
    by = np.arange(31, -1, -1, dtype=np.uint32)
    assert apply("shfl.sync.idx.b32 %d, %a, %b, 31, -1;", values, by, out=np.uint32).tolist() == values[::-1].tolist()


@pytest.mark.parametrize(
    ("name", "kind", "truth"),
    [
        ("add", "s32", lambda x: np.sum(x, dtype=np.int32)),
        ("min", "s32", np.min),
        ("max", "s32", np.max),
        ("and", "b32", np.bitwise_and.reduce),
        ("or", "b32", np.bitwise_or.reduce),
        ("xor", "b32", np.bitwise_xor.reduce),
    ],
)
def test_reductions_over_a_warp(name, kind, truth):
    values = np.random.default_rng(0).integers(-(2**31), 2**31, 64, np.int64).astype(np.int32)
    found = apply(f"redux.sync.{name}.{kind} %d, %a, -1;", values, out=np.int32)
    assert found.tolist() == [int(truth(values[:32]))] * 32 + [int(truth(values[32:]))] * 32


@pytest.mark.parametrize("votes", [[1] * 32, [0] * 32, [1, 0, 0, 1] * 8])
def test_votes(votes):
    values = np.array(votes, np.uint32)
    start = ".reg .pred %q; .reg .pred %r; setp.ne.u32 %q, %a, 0;"
    ballot = apply(f"{start} vote.sync.ballot.b32 %d, %q, -1;", values, out=np.uint32)
    assert ballot.tolist() == [sum(v << i for i, v in enumerate(votes))] * 32
    for name, truth in (("any", any(votes)), ("all", all(votes)), ("uni", len(set(votes)) == 1)):
        form = f"{start} vote.sync.{name}.pred %r, %q, 0xffffffff; selp.b32 %d, 1, 0, %r;"
        assert apply(form, values, out=np.uint32).tolist() == [int(truth)] * 32


TOGETHER = [
    "shfl.sync.bfly.b32 %x, %t, 1, 31, -1;",
    "redux.sync.add.s32 %x, %t, -1;",
    "vote.sync.ballot.b32 %x, %q, -1;",
    "bar.warp.sync -1;",
]


@pytest.mark.parametrize("instruction", TOGETHER)
def test_a_part_of_a_warp_is_caught(instruction):
    start = ".reg .b32 %x; .reg .pred %q; setp.lt.u32 %q, %t, "
    for skip in (f"@%q bra $L_x; {instruction} $L_x:", f"@%q {instruction}"):
        run_ptx(kernel(f"{start} 32; {skip}", threads=64), [np.zeros(1)])  # a whole warp
        with pytest.raises(Trap, match="reached by a part of a warp"):
            run_ptx(kernel(f"{start} 40; {skip}", threads=64), [np.zeros(1)])


def test_lanes_wait_for_those_that_a_branch_sent_further_down():
    form = """.reg .pred %q; setp.lt.u32 %q, %a, 10; @%q bra $L_far;
        $L_meet: shfl.sync.bfly.b32 %d, %a, 16, 31, -1; bra $L_end;
        $L_far: add.u32 %a, %a, 100; bra $L_meet; $L_end:"""
    found = apply(form, np.arange(32, dtype=np.uint32), out=np.uint32)
    values = [lane + 100 * (lane < 10) for lane in range(32)]
    assert found.tolist() == [values[lane ^ 16] for lane in range(32)]


def test_lanes_that_wait_for_each_other_are_caught():
    form = ".reg .b32 %x; .reg .pred %q; setp.lt.u32 %q, %t, 10; @%q bra $L_far; {0} bra $L_end; $L_far: {0} $L_end:"
    with pytest.raises(Trap, match="wait for each other"):
        run_ptx(kernel(form.format("shfl.sync.bfly.b32 %x, %t, 1, 31, -1;")), [np.zeros(1)])


def test_members_other_than_all_lanes_are_refused():
    with pytest.raises(Trap, match="not all lanes of the warp are members"):
        run_ptx(kernel(".reg .b32 %x; shfl.sync.idx.b32 %x, %t, 0, 31, 0xffff;"), [np.zeros(1)])


def test_lanes_that_a_branch_leaves_active():
    form = ".reg .pred %q; setp.lt.u32 %q, %a, 5; mov.u32 %d, 9; @!%q bra $L_x; activemask.b32 %d; $L_x:"
    found = apply(form, np.arange(32, dtype=np.uint32), out=np.uint32)
    assert found.tolist() == [31] * 5 + [9] * 27
