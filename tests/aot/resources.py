"""What a compiled Triton kernel uses, read from its binary and its assembly text."""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"  # part of every Triton wheel


def resources(kernel: Any, target: GPUTarget) -> dict[str, Any]:
    """Registers, spills (bytes; on AMD registers), shared memory and the widths of all global memory accesses."""
    usage = amd_resources(kernel.asm["amdgcn"]) if target.backend == "hip" else nvidia_resources(kernel)
    return usage | {"shared": kernel.metadata.shared}


def nvidia_resources(kernel: Any) -> dict[str, Any]:
    # Read from the binary that would run: assembling the PTX once more, with other options, can spill elsewhere.
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "registers": int(match(r"REG:(\d+)", usage)),
        "spills": int(match(r"STACK:(\d+)", usage)),  # nothing but spilled registers lies on a kernel's stack
        "loads": ptx_widths("ld", kernel.asm["ptx"]),
        "stores": ptx_widths("st", kernel.asm["ptx"]),
    }


def ptx_widths(instruction: str, ptx: str) -> dict[int, int]:
    found = re.findall(rf"\b{instruction}\.global[\w.:]*?(?:\.v(\d))?\.[bsuf](\d+)", ptx)
    return dict(Counter(int(count or 1) * int(bits) for count, bits in found))


def amd_resources(assembly: str) -> dict[str, Any]:
    return {
        "registers": int(match(r"\.vgpr_count:\s+(\d+)", assembly)),
        "spills": sum(int(match(rf"\.{kind}_spill_count:\s+(\d+)", assembly)) for kind in ("vgpr", "sgpr")),
        "loads": amd_widths("load", assembly),
        "stores": amd_widths("store", assembly),
    }


def amd_widths(instruction: str, assembly: str) -> dict[int, int]:
    found = re.findall(rf"\b(?:global|buffer)_{instruction}_(dwordx\d|dword|short|[us]?byte|ushort)", assembly)
    bits = {"dword": 32, "short": 16, "ushort": 16, "byte": 8, "ubyte": 8, "sbyte": 8}
    return dict(Counter(bits.get(kind) or 32 * int(kind[-1]) for kind in found))


def match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in {text[:200]!r}")
    return found[1]
