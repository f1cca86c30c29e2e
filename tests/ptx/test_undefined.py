"""A register that nobody wrote: it may be copied, and decides nothing."""

import numpy as np
import pytest

from tests.ptx import Trap
from tests.ptx.programs import kernel
from tests.ptx.run import run_ptx

# %x is written in lanes below 20 only.
HALF = """.reg .b32 %x; .reg .b32 %y; .reg .b32 %s; .reg .b64 %a; .reg .pred %q; .reg .pred %r;
setp.lt.u32 %q, %t, 20; mad.wide.u32 %a, %t, 4, %p0; @%q ld.global.u32 %x, [%a];"""


def run(body: str, shared: int = 0) -> list[int]:
    values = np.arange(100, 132, dtype=np.uint32)
    run_ptx(kernel(f"{HALF} {body}", 1, 32, shared), [values])
    return values.tolist()


def test_what_is_selected_away_does_not_matter():
    found = run("add.u32 %x, %x, 1; selp.b32 %y, %x, 7, %q; st.global.u32 [%a], %y;")
    assert found == [n + 101 if n < 20 else 7 for n in range(32)]


def test_what_is_not_stored_does_not_matter():
    assert run("add.u32 %y, %x, 1; @%q st.global.u32 [%a], %y;")[:2] == [101, 102]


def test_zero_and_anything_is_zero():
    start = "selp.b32 %s, -1, 0, %q; "
    assert run(f"{start} and.b32 %y, %x, %s; st.global.u32 [%a], %y;")[19:21] == [119, 0]
    assert run(f"{start} not.b32 %s, %s; or.b32 %y, %x, %s; st.global.u32 [%a], %y;")[19:21] == [119, 2**32 - 1]
    # Lanes from 20 on: false and unknown.
    assert run("setp.eq.u32 %r, %x, 119; and.pred %r, %q, %r; @%r st.global.u32 [%a], 5;")[18:21] == [118, 5, 120]


@pytest.mark.parametrize(
    "use",
    [
        "st.global.u32 [%a], %x;",
        "add.u32 %y, %x, 1; mul.lo.u32 %y, %y, 0; st.global.u32 [%a], %y;",
        "mov.u32 %y, %x; shfl.sync.bfly.b32 %y, %y, 31, 31, -1; @%q st.global.u32 [%a], %y;",
        "selp.b32 %y, %t, %x, %q; st.global.u32 [%a], %y;",
    ],
)
def test_a_stored_value_matters(use):
    with pytest.raises(Trap, match="a stored value depends on a register that nobody wrote"):
        run(use)


def test_an_address_matters():
    with pytest.raises(Trap, match="an address depends on a register that nobody wrote"):
        run("mad.wide.u32 %a, %x, 0, %p0; ld.global.u32 %y, [%a];")


def test_a_branch_and_a_predicate_matter():
    for use in ("@%r bra $L_x; $L_x:", "@%r st.global.u32 [%a], 1;"):
        with pytest.raises(Trap, match="a predicate depends on a register that nobody wrote"):
            run(f"setp.eq.u32 %r, %x, 3; {use}")


def test_shared_memory_carries_it():
    through = "mov.u32 %s, memory; mad.lo.u32 %s, %t, 4, %s; st.shared.u32 [%s], %x; ld.shared.u32 %y, [%s];"
    assert run(f"{through} @%q st.global.u32 [%a], %y;", shared=128)[:2] == [100, 101]
    with pytest.raises(Trap, match="a stored value depends on"):
        run(f"{through} st.global.u32 [%a], %y;", shared=128)
    with pytest.raises(Trap, match="a reduction depends on"):
        run("redux.sync.add.s32 %y, %x, -1;")
