"""PTX text of one kernel as a `Program`: basic blocks of instructions, with registers numbered.

Reads what LLVM's NVPTX back end and Triton's inline assembly write; anything else is a `Trap` that quotes it.

References: NVIDIA, "Parallel Thread Execution ISA", sections "Syntax" and "State Spaces, Types, and Variables".
"""

import os
import re
import struct
from collections import Counter
from dataclasses import dataclass, field

from .trap import Trap

BYTES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4}
BYTES |= {
    "f32": 4,
    **dict.fromkeys(("f16x2", "bf16x2", "u16x2", "s16x2"), 4),
    "b64": 8,
    "u64": 8,
    "s64": 8,
    "f64": 8,
    "b128": 16,
    "pred": 0,
}
SPECIAL = (*(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"), "%laneid")
SINK = -1  # the number of the register `_`

_DIRECTIVE = re.compile(r"\.(?:loc|file|pragma|version|target|address_size|reqntid|maxntid|minnctapersm)\b")
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w.$]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")


@dataclass(frozen=True)
class Register:
    number: int
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """Its low bits are the value, whatever the type of the instruction."""

    bits: int


@dataclass(frozen=True)
class Vector:
    items: tuple["Operand", ...]


@dataclass(frozen=True)
class Address:
    base: "Register | Immediate | str"  # a str is the name of a parameter
    offset: int


@dataclass(frozen=True)
class Name:
    """A label, or a word of the instruction."""

    text: str


Operand = Register | Immediate | Vector | Address | Name


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str
    line: str  # of the kernel's source, such as "rows.py:25"

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.opcode.split("."))


@dataclass
class Program:
    """The basic blocks of one kernel.

    A block ends at a branch, a return or a barrier of the block, and before a label or an instruction where the lanes
    of a warp meet.
    """

    name: str
    threads: int  # of a block
    parameters: dict[str, str] = field(default_factory=dict)  # name: type, in order
    blocks: list[list[Instruction]] = field(default_factory=lambda: [[]])
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)  # name: number
    widths: list[int] = field(default_factory=list)  # bytes of each register; a predicate has 0
    shared: dict[str, int] = field(default_factory=dict)  # name: address
    static_shared: int = 0  # bytes

    @property
    def opcodes(self) -> Counter[str]:
        return Counter(i.opcode for block in self.blocks for i in block)

    @property
    def has_barriers(self) -> bool:
        return any(is_block_barrier(i.opcode) for block in self.blocks for i in block)


def is_block_barrier(opcode: str) -> bool:
    return opcode.startswith(("bar.sync", "barrier.sync"))


def is_warp_meeting(opcode: str) -> bool:
    """Whether lanes wait here for the others of their warp, wherever those are (`.aligned` says they are here)."""
    return opcode.startswith(("shfl.sync", "redux.sync", "vote.sync", "bar.warp.sync"))


def parse(ptx: str) -> Program:
    """The kernel of a module with one `.entry`."""
    text = re.split(r"^\s*\.section", ptx, maxsplit=1, flags=re.MULTILINE)[0]
    entry = re.search(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\n\{(.*)", text, re.DOTALL)
    if entry is None:
        raise Trap("no .entry in the PTX")
    name, parameters, head, body = entry.groups()
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", head)
    if threads is None:
        raise Trap(f"{name}: the PTX does not say how many threads a block has")
    program = Program(name, int(threads[1]))
    for kind, parameter in re.findall(r"\.param\s+\.(\w+)[^,]*?\s([\w$]+)\s*(?:,|$)", parameters):
        program.parameters[parameter] = kind
    for special in SPECIAL:
        _declare(program, special, 4)
    _declare_shared(program, text)
    _read_body(program, body, dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', ptx, re.MULTILINE)))
    missing = [
        i.text for b in program.blocks for i in b if i.opcode.startswith("bra") and _label(i) not in program.labels
    ]
    if missing:
        raise Trap(f"{name}: no such label: {missing[0]}")
    return program


def _label(instruction: Instruction) -> str:
    (target,) = instruction.operands
    return target.text if isinstance(target, Name) else "?"


def _declare(program: Program, name: str, width: int) -> None:
    program.registers[name] = len(program.widths)
    program.widths.append(width)


def _declare_shared(program: Program, text: str) -> None:
    """Static arrays one after the other, then the dynamic one that Triton uses."""
    dynamic = []
    for align, kind, name, length in re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)\[(\d*)\]", text):
        start = -(-program.static_shared // int(align)) * int(align)
        if length:
            program.shared[name] = start
            program.static_shared = start + int(length) * BYTES[kind]
        else:
            dynamic.append(name)
    for name in dynamic:
        program.shared[name] = -(-program.static_shared // 16) * 16


def _read_body(program: Program, body: str, files: dict[str, str]) -> None:
    line = "?"
    for raw in _statements(body):
        if location := re.match(r"\.loc\s+(\d+)\s+(\d+)", raw):
            line = f"{os.path.basename(files.get(location[1], '?'))}:{location[2]}"
        elif label := re.fullmatch(r"([\w$]+):", raw):
            if program.blocks[-1]:
                program.blocks.append([])
            program.labels[label[1]] = len(program.blocks) - 1
        elif declared := re.match(r"\.reg\s+\.(\w+)\s+(.*)", raw, re.DOTALL):
            for name, count in re.findall(r"([%\w$]+)(?:<(\d+)>)?", declared[2]):
                for each in [f"{name}{i}" for i in range(int(count))] if count else [name]:
                    _declare(program, each, BYTES[declared[1]])
        elif not _DIRECTIVE.match(raw):
            _add(program, raw, line)


def _statements(body: str) -> list[str]:
    """Labels, directives and instructions, without comments and without the braces of scopes."""
    found = []
    for statement in re.split(r";|\n(?=\s*\.loc)|(?<=[\w$]:)\s*\n", re.sub(r"//[^\n]*", "", body)):
        rest = statement.strip()
        while True:
            directive = re.match(r"(\.loc[^\n]*|\.pragma[^\n]*|[\w$]+:(?!:))(\s+|$)", rest)
            if directive:
                found.append(directive[1])
                rest = rest[directive.end() :]
            elif re.match(r"[{}](?=\s|$)", rest):
                rest = rest[1:].lstrip()
            else:
                break
        if rest:
            found.append(rest)
    return found


def _add(program: Program, text: str, line: str) -> None:
    text = " ".join(text.split())
    found = _INSTRUCTION.fullmatch(text)
    if found is None:
        raise Trap(f"{program.name} {line}: cannot read {text!r}")
    negated, guard, opcode, rest = found.groups()
    operands: list[Operand] = []
    for each in _OPERAND.findall(rest):
        operands.extend(_operand(program, part.strip(), text) for part in _pair(each))
    predicate = Register(program.registers[guard], bool(negated)) if guard else None
    if is_warp_meeting(opcode) and program.blocks[-1]:
        program.blocks.append([])
    program.blocks[-1].append(Instruction(opcode, tuple(operands), predicate, text, line))
    if opcode.startswith(("bra", "ret", "exit")) or is_block_barrier(opcode):
        program.blocks.append([])


def _pair(operand: str) -> list[str]:
    """`a|b`, two destinations, is an operand in two parts."""
    return [operand] if operand[0] in "[{" else operand.split("|")


def _operand(program: Program, text: str, whole: str) -> Operand:
    if text[0] == "{":
        return Vector(tuple(_operand(program, item.strip(), whole) for item in text[1:-1].split(",")))
    if text[0] == "[":
        found = re.fullmatch(r"\[\s*([%\w.$]+)\s*(?:\+\s*(-?\w+)\s*)?\]", text)
        if found is None:
            raise Trap(f"{program.name}: cannot read the address {text} of {whole!r}")
        base = _operand(program, found[1], whole)
        return Address(base.text if isinstance(base, Name) else base, int(found[2] or "0", 0))  # type: ignore[arg-type]
    if text == "_":
        return Register(SINK)
    bare = text.removeprefix("!")
    if bare in program.registers:
        return Register(program.registers[bare], text[0] == "!")
    if bare[0] == "%":
        raise Trap(f"{program.name}: no such register {bare} in {whole!r}")
    if text in program.shared:
        return Immediate(program.shared[text])
    if found := re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", text):
        return Immediate(int(found[2], 16))
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.removesuffix("U"), 0))
    if re.fullmatch(r"-?\d+\.\d+", text):
        return Immediate(struct.unpack("<I", struct.pack("<f", float(text)))[0])
    return Name(text)
