"""Global memory: where accesses lie, how wide they are, and what is counted."""

import numpy as np
import pytest

from tests.ptx import Trap
from tests.ptx.programs import kernel
from tests.ptx.run import run_ptx

COPY = """
.reg .b64 %a; .reg .b64 %b; .reg .b32 %x; .reg .pred %q;
mad.wide.u32 %a, %t, {stride}, %p0;
mad.wide.u32 %b, %t, 4, %p1;
setp.lt.u32 %q, %t, {limit};
{guard} ld.global.u32 %x, [%a+{shift}];
{guard} st.global.u32 [%b], %x;
"""


def copy(source: np.ndarray, target: np.ndarray, limit: int = 32, guard: str = "@%q", stride: int = 4, shift: int = 0):
    return run_ptx(kernel(COPY.format(limit=limit, guard=guard, stride=stride, shift=shift), 2), [source, target])


def test_only_active_lanes_access_memory():
    source, target = np.arange(10, dtype=np.uint32), np.zeros(10, np.uint32)
    launch = copy(source, target, limit=10)
    assert np.array_equal(source, target)
    assert (launch.global_loads.requests, launch.global_loads.bytes) == (1, 40)


@pytest.mark.parametrize("short", ["source", "target"])
def test_an_access_past_the_end_is_caught(short):
    sizes = {"source": 32, "target": 32} | {short: 31}
    with pytest.raises(
        Trap, match=r"1 lanes out of bounds; the first is 124 bytes from the start and 0 before the end"
    ):
        copy(*(np.zeros(size, np.uint32) for size in sizes.values()))


def test_an_access_before_the_start_is_caught():
    with pytest.raises(Trap, match="the first is -4 bytes from the start"):
        copy(np.zeros(32, np.uint32), np.zeros(32, np.uint32), shift=-4)


def test_the_trap_names_kernel_line_and_instruction():
    with pytest.raises(Trap, match=r"k, kernel\.py:7, `ld\.global\.u32 %x, \[%a\+400\]`: "):
        copy(np.zeros(32, np.uint32), np.zeros(32, np.uint32), guard="", shift=400)


def test_an_access_across_the_end_is_caught():
    raw = np.zeros(128, np.uint8)[:126]  # the last word has two bytes in it
    with pytest.raises(Trap, match="124 bytes from the start and 2 before the end"):
        copy(raw, np.zeros(32, np.uint32))


def test_a_misaligned_access_is_caught():
    with pytest.raises(Trap, match="misaligned access of 4 bytes"):
        copy(np.zeros(64, np.uint32), np.zeros(32, np.uint32), shift=2)


def test_a_misaligned_vector_is_caught():
    body = ".reg .b32 %x<4>; .reg .b64 %a; ld.global.v4.b32 {%x0, %x1, %x2, %x3}, [%p0+8];"
    with pytest.raises(Trap, match="misaligned access of 16 bytes"):
        run_ptx(kernel(body), [np.zeros(16, np.uint32)])


def test_vectors_hold_neighbours():
    source, target = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    body = """.reg .b32 %x<4>; .reg .b64 %a; .reg .b64 %b;
    mad.wide.u32 %a, %t, 16, %p0; mad.wide.u32 %b, %t, 16, %p1;
    ld.global.L1::evict_first.v4.b32 {%x0, %x1, %x2, %x3}, [%a];
    st.global.v4.b32 [%b], {%x3, %x2, %x1, %x0};"""
    run_ptx(kernel(body, 2), [source, target])
    assert np.array_equal(target.reshape(-1, 4), source.reshape(-1, 4)[:, ::-1])


def test_loads_extend_to_the_register():
    source, target = np.array([-3, 100] * 16, np.int8), np.zeros(32, np.int32)
    body = """.reg .b32 %x; .reg .b64 %a; .reg .b64 %b; cvt.u64.u32 %a, %t; add.u64 %a, %a, %p0;
    mad.wide.u32 %b, %t, 4, %p1; ld.global.{kind} %x, [%a]; st.global.b32 [%b], %x;"""
    run_ptx(kernel(body.replace("{kind}", "s8"), 2), [source, target])
    assert target[:2].tolist() == [-3, 100]
    run_ptx(kernel(body.replace("{kind}", "u8"), 2), [source, target])
    assert target[:2].tolist() == [253, 100]


def test_lanes_that_store_different_values_to_one_address_are_caught():
    body = ".reg .b32 %x; {value} st.global.u32 [%p0], %x;"
    run_ptx(kernel(body.format(value="mov.u32 %x, 3;")), [np.zeros(1, np.uint32)])
    with pytest.raises(Trap, match="two lanes write different values"):
        run_ptx(kernel(body.format(value="mov.u32 %x, %t;")), [np.zeros(1, np.uint32)])


def test_blocks_know_their_place_in_the_grid():
    body = """.reg .b32 %x<4>; .reg .b64 %a; mov.u32 %x0, %ctaid.x; mov.u32 %x1, %ctaid.y; mov.u32 %x2, %ctaid.z;
    mov.u32 %x3, %nctaid.x; mad.lo.u32 %x0, %x1, %x3, %x0; mov.u32 %x3, %nctaid.y; mad.lo.u32 %x3, %x3, 3, 0;
    mad.lo.u32 %x0, %x2, %x3, %x0; mad.wide.u32 %a, %x0, 4, %p0; st.global.u32 [%a], %x0;"""
    out = np.zeros(3 * 5 * 700, np.uint32)  # more blocks than one chunk has
    run_ptx(kernel(body), [out], grid=(3, 5, 700))
    assert np.array_equal(out, np.arange(out.size, dtype=np.uint32))


@pytest.mark.parametrize(("stride", "sectors"), [(4, 4), (8, 8), (32, 32), (128, 32), (0, 1)])
def test_sectors_of_a_request(stride, sectors):
    raw = np.zeros(4096 + 128, np.uint8)
    source = raw[-raw.ctypes.data % 128 :][:4096].view(np.uint32)
    launch = copy(source, np.zeros(32, np.uint32), stride=stride)
    assert launch.global_loads.sectors == sectors
    assert (launch.global_stores.requests, launch.global_stores.bytes) == (1, 128)


def test_sectors_are_those_of_active_lanes():
    raw = np.zeros(4096 + 128, np.uint8)
    source = raw[-raw.ctypes.data % 128 :][:4096].view(np.uint32)
    assert copy(source, np.zeros(32, np.uint32), stride=32, limit=5).global_loads.sectors == 5
