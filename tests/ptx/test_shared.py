"""Shared memory: bounds, what nobody wrote, warps that meet without a barrier, matrices, asynchronous copies, banks."""

import numpy as np
import pytest

from tests.ptx import Trap
from tests.ptx.programs import kernel
from tests.ptx.run import run_ptx

REGISTERS = ".reg .b32 %x; .reg .b32 %s; .reg .b32 %o; .reg .b64 %a; .reg .pred %q; mov.u32 %s, memory;"
OUT = "mad.wide.u32 %a, %t, 4, %p0; st.global.u32 [%a], %x;"
# Lane n writes n at n, then reads what lane n ^ flip wrote.
EXCHANGE = f"""{REGISTERS}
mad.lo.u32 %o, %t, 4, %s; st.shared.u32 [%o], %t;
{{barrier}}
xor.b32 %o, %t, {{flip}}; mad.lo.u32 %o, %o, 4, %s; ld.shared.u32 %x, [%o];
{OUT}"""


def run(body: str, threads: int = 64, shared: int = 256, seed: int = 0, blocks: int = 1) -> np.ndarray:
    out = np.zeros(threads, np.uint32)
    run_ptx(kernel(body, 1, threads, shared), [out], grid=(blocks, 1, 1), seed=seed)
    return out


@pytest.mark.parametrize("blocks", [1, 200])
def test_threads_exchange_values_over_a_barrier(blocks):
    found = run(EXCHANGE.format(barrier="bar.sync 0;", flip=63), blocks=blocks)
    assert found.tolist() == list(range(63, -1, -1))


def test_a_missing_barrier_is_caught():
    """With barriers elsewhere, as here, warps run one after the other; without any, all at once. Neither hides it."""
    for barrier in ("", "bar.warp.sync -1;"):
        with pytest.raises(Trap, match=r"no barrier in between: warp \d reads what warp \d wrote|nobody wrote"):
            run(EXCHANGE.format(barrier=barrier, flip=63))
        with pytest.raises(Trap, match=r"no barrier in between: warp \d reads what warp \d wrote|nobody wrote"):
            run("bar.sync 0;" + EXCHANGE.format(barrier=barrier, flip=63))


def test_within_a_warp_no_barrier_is_needed():
    assert run(EXCHANGE.format(barrier="", flip=31)).tolist() == [n ^ 31 for n in range(64)]


def test_overwriting_what_another_warp_reads_is_caught():
    body = f"""{REGISTERS}
    mad.lo.u32 %o, %t, 4, %s; st.shared.u32 [%o], %t; bar.sync 0;
    xor.b32 %x, %t, 32; mad.lo.u32 %x, %x, 4, %s; ld.shared.u32 %x, [%x];
    {{barrier}} st.shared.u32 [%o], 7; {OUT}"""
    assert run(body.format(barrier="bar.sync 0;")).tolist() == [n ^ 32 for n in range(64)]
    with pytest.raises(Trap, match=r"warp \d (writes what warp \d read|reads what warp \d wrote)"):
        run(body.format(barrier=""))


def test_two_warps_that_write_one_address_are_caught_unless_they_agree():
    body = f"{REGISTERS} bar.sync 0; shr.u32 %x, %t, 5; {{same}} st.shared.u32 [%s], %x; {OUT}"
    run(body.format(same="mov.u32 %x, 3;"))
    with pytest.raises(Trap, match=r"writes what warp \d wrote"):
        run(body.format(same=""))


def test_the_random_order_of_warps_differs_by_seed():
    """The last warp to write a word wins; that they meet there goes unpunished only because the check is off."""
    from tests.ptx.shared import Shared

    body = f"""{REGISTERS} bar.sync 0; shr.u32 %x, %t, 5; and.b32 %o, %t, 31; setp.eq.u32 %q, %o, 0;
    @%q st.shared.u32 [%s], %x; bar.sync 0; ld.shared.u32 %x, [%s]; {OUT}"""
    meet, Shared._meet = Shared._meet, staticmethod(lambda *args: None)
    try:
        last = {int(run(body, threads=128, seed=seed)[0]) for seed in range(20)}
    finally:
        Shared._meet = staticmethod(meet)
    assert last == set(range(4))


def test_reads_of_what_nobody_wrote_are_caught():
    body = f"{REGISTERS} mad.lo.u32 %o, %t, 4, %s; {{write}} ld.shared.u32 %x, [%o]; {OUT}"
    run(body.format(write="st.shared.u32 [%o], %t;"))
    for write in ("", "st.shared.u16 [%o], 1;", "setp.ne.u32 %q, %t, 40; @%q st.shared.u32 [%o], %t;"):
        with pytest.raises(Trap, match="reads shared memory that nobody wrote"):
            run(body.format(write=write))


@pytest.mark.parametrize(("offset", "message"), [(256, "out of bounds"), (-4, "out of bounds"), (2, "misaligned")])
def test_bounds_and_alignment(offset, message):
    with pytest.raises(Trap, match=message):
        run(f"{REGISTERS} mad.lo.u32 %o, %t, 0, %s; st.shared.u32 [%o+{offset}], 1;")


@pytest.mark.parametrize(
    "skip",
    [
        "setp.lt.u32 %q, %t, 40; @%q bra $L_x; bar.sync 0; $L_x:",  # a part of a warp
        "setp.lt.u32 %q, %t, 32; @%q bra $L_x; bar.sync 0; $L_x:",  # a warp
        "setp.lt.u32 %q, %t, 32; @%q bar.sync 0;",
        "setp.lt.u32 %q, %t, 32; @%q bra $L_x; bar.sync 0; bra $L_y; $L_x: bar.sync 0; $L_y:",  # two barriers
        "setp.lt.u32 %q, %t, 32; @%q ret; bar.sync 0;",
    ],
)
def test_a_barrier_that_a_part_of_a_block_reaches_is_caught(skip):
    with pytest.raises(Trap, match="a barrier is reached by a part of a block"):
        run(f"{REGISTERS} {skip}")


def test_one_block_may_pass_more_barriers_than_another():
    body = f"""{REGISTERS} mov.u32 %x, %ctaid.x; mov.u32 %o, 0;
    $L_loop: setp.ge.u32 %q, %o, %x; @%q bra $L_end; bar.sync 0; add.u32 %o, %o, 1; bra $L_loop; $L_end:"""
    launch = run_ptx(kernel(body, 1, 64, 16), [np.zeros(1)], grid=(5, 1, 1))
    assert launch.barriers == 0 + 1 + 2 + 3 + 4


def matrices(count: int, transposed: str, write: bool) -> tuple[np.ndarray, np.ndarray]:
    """(what shared memory holds as (count, 8, 8), what the lanes hold as (32, count, 2))."""
    names = ", ".join(f"%m{i}" for i in range(count))
    load = "".join(f"ld.global.b32 %m{i}, [%a+{4 * i}];" for i in range(count))
    store = "".join(f"st.global.b32 [%a+{4 * i}], %m{i};" for i in range(count))
    pair = f".reg .b32 %m<4>; .reg .b32 %w; mad.wide.u32 %a, %t, {4 * count}, %{{lanes}}; mad.lo.u32 %w, %t, 4, %s;"
    row = f"rem.u32 %o, %t, {8 * count}; mad.lo.u32 %o, %o, 16, %s;"
    held, stored = np.arange(64 * count, dtype=np.uint16), np.zeros(64 * count, np.uint16)
    if write:
        copy_out = "".join(f"ld.shared.b32 %x, [%w+{128 * i}]; st.global.b32 [%b+{128 * i}], %x;" for i in range(count))
        body = f"""{REGISTERS} .reg .b64 %b; {pair.format(lanes="p0")} {load} {row}
        stmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16 [%o], {{{names}}};
        mad.wide.u32 %b, %t, 4, %p1; {copy_out}"""
        run_ptx(kernel(body, 2, 32, 128 * count), [held, stored])
        return stored.reshape(count, 8, 8), held.reshape(32, count, 2)
    copy_in = "".join(f"ld.global.b32 %x, [%b+{128 * i}]; st.shared.b32 [%w+{128 * i}], %x;" for i in range(count))
    body = f"""{REGISTERS} .reg .b64 %b; {pair.format(lanes="p1")} mad.wide.u32 %b, %t, 4, %p0; {copy_in} {row}
    ldmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16 {{{names}}}, [%o]; {store}"""
    run_ptx(kernel(body, 2, 32, 128 * count), [held, stored])
    return held.reshape(count, 8, 8), stored.reshape(32, count, 2)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("transposed", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices(count, transposed, write):
    """Lane l holds elements (l // 4, 2 (l % 4)) and its right neighbour, of the matrix or of its transpose."""
    rows, lanes = matrices(count, transposed, write)
    for lane in range(32):
        for i in range(count):
            matrix = rows[i].T if transposed else rows[i]
            row, column = divmod(lane, 4)
            assert lanes[lane, i].tolist() == matrix[row, 2 * column : 2 * column + 2].tolist()


COPIES = f"""{REGISTERS} .reg .b64 %g; mad.lo.u32 %o, %t, 16, %s; mad.wide.u32 %g, %t, 16, %p1;
cp.async.cg.shared.global [%o], [%g], 16{{size}}; cp.async.commit_group; {{wait}}
ld.shared.u32 %x, [%o+{{word}}]; {OUT}"""


def copied(wait: str, size: str = "", word: int = 4) -> list[int]:
    out, source = np.zeros(32, np.uint32), np.arange(128, dtype=np.uint32)
    run_ptx(kernel(COPIES.format(wait=wait, size=size, word=word), 2, 32, 512), [out, source])
    return out.tolist()


def test_asynchronous_copies_arrive_when_they_are_waited_for():
    assert copied("cp.async.wait_group 0;") == list(range(1, 128, 4))
    assert copied("cp.async.wait_all;") == list(range(1, 128, 4))
    for missing in ("", "cp.async.wait_group 1;"):
        with pytest.raises(Trap, match="nobody wrote"):
            copied(missing)


def test_asynchronous_copies_fill_with_zeros():
    assert copied("cp.async.wait_group 0;", size=", 4", word=0) == list(range(0, 128, 4))
    assert copied("cp.async.wait_group 0;", size=", 4", word=4) == [0] * 32


@pytest.mark.parametrize(
    ("stride", "size", "wavefronts", "least"),
    [
        (4, 4, 1, 1),
        (8, 4, 2, 1),
        (128, 4, 32, 1),
        (0, 4, 1, 1),
        (132, 4, 1, 1),
        (16, 16, 4, 4),
        (128, 16, 32, 4),
        (8, 8, 2, 2),
    ],
)
def test_wavefronts_of_a_request(stride, size, wavefronts, least):
    items = ", ".join(["%x"] * (size // 4))
    vector = {4: "u32", 8: "v2.u32", 16: "v4.u32"}[size]
    value = "%x" if size == 4 else f"{{{items}}}"
    body = f"{REGISTERS} mov.u32 %x, 1; mad.lo.u32 %o, %t, {stride}, %s; st.shared.{vector} [%o], {value};"
    launch = run_ptx(kernel(body, 1, 32, 8192), [np.zeros(1)])
    assert (launch.shared_stores.wavefronts, launch.shared_stores.least) == (wavefronts, least)
