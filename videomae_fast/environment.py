"""The installed packages and devices that the library can use, and what each device runs: `videomae-fast env`."""

import contextlib
import importlib
import importlib.util
import io
import platform
import warnings
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy
import torch

from videomae_kernels import runs_triton

from ._optional import EXTRAS
from .data.readers import READERS
from .models.attention import BACKENDS, active_flash_attention, unavailable_reason


@dataclass(frozen=True)
class Package:
    """An optional package.

    Attributes:
        name: import name, a key of EXTRAS.
        version: its version, if it can be imported.
        problem: why it cannot be imported, else "".
    """

    name: str
    version: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if not self.problem:
            return f"{self.name} {self.version}"
        return f"{self.name}: {self.problem}; pip install 'videomae-fast[{EXTRAS[self.name]}]'"


def probe(name: str) -> Package:
    """Import an optional package, and discard what it prints or warns about.

    Args:
        name: import name, a key of EXTRAS.

    Returns:
        Its version, or the reason why it cannot be imported. An error of the package is a reason, never raised.
    """
    if _spec(name) is None:
        return Package(name, problem="not installed")
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Package(name, problem=f"installed, but cannot be imported ({reason})")
    return Package(name, version=str(getattr(module, "__version__", "(version unknown)")))


def describe() -> str:
    """Describe this machine.

    Returns:
        Lines with the versions, the optional packages, the op implementation and the attention backends of each
        device, and the video readers. Where something is not available, the line has the reason. For "sdpa" on a GPU it
        is the flash attention that is active in this process (`activate_flash_attention`).
    """
    packages = {name: probe(name) for name in EXTRAS}
    lines = [
        f"python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch {torch.__version__} ({_accelerator()})",
        f"numpy {numpy.__version__}",
        "",
        "optional packages",
        *(f"  {package}" for package in packages.values()),
    ]
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    for device in devices:
        lines += ["", _device_name(device), f"  ops: {_ops(device, packages['triton'])}"]
        lines += [f"  attention {name}: {_attention(name, device)}" for name in BACKENDS]
    lines += ["", "video readers"]
    lines += [f"  {name}: {packages[name].problem or 'available'}" for name in READERS]
    lines += [f"  folders of images: {packages['PIL'].problem or 'available'}"]
    if _is_foreign_apex(_spec("apex")):
        lines += [
            "",
            "warning: the 'apex' installed here is an unrelated PyPI package, not NVIDIA's: pip uninstall apex",
        ]
    return "\n".join(lines)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module without a spec stands in for the package
        return None


def _accelerator() -> str:
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    capability = f"{properties.major}.{properties.minor}"
    return f"{device}: {properties.name}, capability {capability}, {properties.total_memory / 2**30:.0f} GiB"


def _ops(device: torch.device, triton: Package) -> str:
    if not runs_triton(device):
        return (
            "plain-torch reference, because Triton needs a GPU "
            "(TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)"
        )
    if triton.problem:
        return f"none, because Triton is needed here: {triton}"
    if device.type == "cpu":
        return "Triton kernels in Triton's interpreter, because TRITON_INTERPRET=1 (slow: for tests)"
    return "Triton kernels"


def _attention(name: str, device: torch.device) -> str:
    reason = unavailable_reason(name, device)
    if reason is None and name == "sdpa" and device.type == "cuda":
        return f"available, runs {active_flash_attention() or 'the flash attention of PyTorch'}"
    return reason or "available"


def _is_foreign_apex(spec: ModuleSpec | None) -> bool:
    """Whether 'apex' is PyPI's package for the Pyramid web framework, which lacks NVIDIA's modules."""
    if spec is None:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return not any((folder / part).is_dir() for folder in folders for part in ("optimizers", "normalization"))
