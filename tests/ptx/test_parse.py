"""What cannot be read or run is an error that names the opcode, the kernel and the line."""

import numpy as np
import pytest

from tests.ptx import Trap
from tests.ptx.parse import parse
from tests.ptx.programs import kernel
from tests.ptx.run import load, run_ptx


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.b32 %t, %t;",
        "add.rz.f32 %t, %t, %t;",
        "cvt.rn.e4m3x2.f32 %t, %t, %t;",
        "atom.global.add.u32 %t, [%p0], 1;",
        "mul24.lo.u32 %t, %t, %t;",
        "ld.local.u32 %t, [%p0];",
        "fma.rn.f64 %p0, %p0, %p0, %p0;",
        "setp.foo.u32 %t, %t, %t;",
    ],
)
def test_an_unknown_opcode_is_named_before_anything_runs(instruction):
    opcode = instruction.split()[0]
    with pytest.raises(Trap, match=rf"^k, kernel\.py:7, `{opcode}.*`: unknown opcode {opcode}"):
        load(kernel(instruction))


def test_missing_registers_labels_and_kernels_are_named():
    with pytest.raises(Trap, match=r"no such register %nobody in 'add"):
        parse(kernel("add.u32 %t, %nobody, 1;"))
    with pytest.raises(Trap, match=r"no such label: bra \$L_nowhere"):
        parse(kernel("bra $L_nowhere;"))
    with pytest.raises(Trap, match=r"no \.entry"):
        parse(".version 8.0")


def test_the_kernel_can_stop_itself():
    with pytest.raises(Trap, match="`trap`: the kernel stops itself"):
        run_ptx(kernel("trap;"), [np.zeros(1)])


def test_lines_of_the_source_are_known():
    text = kernel('.file 2 "/far/away/other.py"\n.loc 2 31 5\nadd.u32 %t, %t, 1;\n.loc 1 8 0\nadd.u32 %t, %t, 2;')
    lines = [i.line for block in parse(text).blocks for i in block if i.opcode == "add.u32"]
    assert lines == ["other.py:31", "kernel.py:8"]


def test_inline_assembly_on_several_lines_is_read():
    text = kernel("{\n\t.reg .b32 %inner;\n\tmov.u32 %inner,\n\t\t5;\n\tadd.u32 %t,\n %inner, %t;\n}")
    found = [i.text for block in parse(text).blocks for i in block]
    assert found[2:4] == ["mov.u32 %inner, 5", "add.u32 %t, %inner, %t"]
