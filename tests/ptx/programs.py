"""Hand-made PTX for the tests of the interpreter, and numbers rounded exactly, from Python's fractions."""

from fractions import Fraction

import numpy as np

from tests.ptx.run import run_ptx

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
SMALLEST = {"f16": (11, -24), "bf16": (8, -133), "f32": (24, -149)}  # bits of a significand, exponent of the last place
LARGEST = {
    "f16": Fraction(65504),
    "bf16": (2 - Fraction(1, 2**7)) * 2**127,
    "f32": (2 - Fraction(1, 2**23)) * 2**127,
}


def kernel(body: str, parameters: int = 1, threads: int = 32, shared: int = 0) -> str:
    """A kernel with its pointers in %p0, %p1, …, the number of its thread in %t, and all that `body` says."""
    names = ",\n".join(f".param .u64 k_param_{i}" for i in range(parameters))
    loads = "\n".join(f"ld.param.u64 %p{i}, [k_param_{i}];" for i in range(parameters))
    array = f".shared .align 16 .b8 memory[{shared}];\n" if shared else ""
    return f"""{HEAD}{array}.visible .entry k(
{names}
)
.reqntid {threads}
{{
.reg .b64 %p<{parameters}>;
.reg .b32 %t;
.file 1 "kernel.py"
.loc 1 7 0
{loads}
mov.u32 %t, %tid.x;
{body}
ret;
}}
"""


def apply(instruction: str, *inputs: np.ndarray, out: np.dtype | type) -> np.ndarray:
    """The instruction's %d for each element of the inputs, which are in %a, %b, %c, …"""
    out, count = np.dtype(out), len(inputs[0])
    padded = [np.resize(x, -(-count // 32) * 32) for x in inputs]
    result = np.zeros(len(padded[0]), out)
    body = [f".reg .b{max(16, 8 * out.itemsize)} %d;", ".reg .b64 %at;"]
    for i, (name, x) in enumerate(zip("abcd"[: len(inputs)] if len(inputs) < 4 else "abce", padded, strict=True)):
        body += [
            f".reg .b{max(16, 8 * x.itemsize)} %{name};",
            f"mad.wide.u32 %at, %t, {x.itemsize}, %p{i};",
            f"ld.global.{'s' if x.dtype.kind == 'i' else 'u'}{8 * x.itemsize} %{name}, [%at];",
        ]
    body += [instruction, f"mad.wide.u32 %at, %t, {out.itemsize}, %p{len(inputs)};"]
    body += [f"st.global.b{8 * out.itemsize} [%at], %d;"]
    run_ptx(kernel("\n".join(body), len(inputs) + 1, threads=len(result)), [*padded, result])
    return result[:count]


def number(raw: int, kind: str) -> Fraction | float:
    """The value of the bits of a float: a fraction, or an infinity or NaN as a float."""
    if kind == "bf16":
        raw, kind = raw << 16, "f32"
    size, code = {"f16": (2, "f2"), "f32": (4, "f4")}[kind]
    value = float(np.frombuffer(raw.to_bytes(size, "little"), code)[0])
    return Fraction(value) if np.isfinite(value) else value


def rounded(value: Fraction, kind: str) -> Fraction | float:
    """The nearest float, ties to even, by integer arithmetic."""
    digits, last = SMALLEST[kind]
    if value == 0:
        return Fraction(0)
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    place = Fraction(2) ** max(exponent - digits + 1, last)
    nearest = round(value / place) * place  # Python rounds halves to even
    return nearest if abs(nearest) <= LARGEST[kind] else float("inf") * (1 if value > 0 else -1)
