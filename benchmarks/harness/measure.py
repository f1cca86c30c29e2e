"""Time and memory of any callable, and a description of the machine.

pytest-benchmark takes the samples. On a GPU its `timer` is a pair of CUDA events, so that only the device's time
counts; `chill` and `run_ahead` make every sample start alike: nothing in the cache, and nothing left to launch.
"""

import contextlib
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from benchmarks.harness.profiler import profile

DEVICE_CYCLES_PER_SECOND = 2.2e9  # no GPU's clock is faster, so a sleep is never shorter than was asked for
UNKNOWN_CACHE_BYTES = 64 * 2**20


class CudaInstant:
    """A point in the current stream's work; the difference of two is seconds, for which the host waits."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, earlier: "CudaInstant") -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1e3


def clock() -> Any:
    """A reading whose difference to a later one is seconds: of the GPU's work where there is one, else of the host."""
    return CudaInstant() if torch.cuda.is_available() else time.perf_counter()


def host_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds until `call` returns to the host, on a device that was idle. The device may still be working then."""
    _wait(device)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def chill(device: torch.device) -> None:
    """Evict the last-level cache by reading twice its size. Writing would leave dirty lines to be written back."""
    _cache_filler(device).sum()


def run_ahead(device: torch.device, seconds: float) -> None:
    """Keep a GPU busy while the host launches calls for `seconds`, so that the time of the calls excludes launching."""
    if device.type == "cuda":
        torch.cuda._sleep(int(seconds * DEVICE_CYCLES_PER_SECOND))


def median_seconds(call: Callable[[], Any], device: torch.device, rounds: int = 20) -> float:
    """Median time of a call that is made three times before, to bring up the clocks of a device that was idle."""
    read: Callable[[], Any] = CudaInstant if device.type == "cuda" else time.perf_counter
    seconds = []
    for _ in range(3 + rounds):
        start = read()
        call()
        seconds.append(read() - start)
    return statistics.median(seconds[3:])


def copy_bandwidth(device: torch.device, mib: int | None = None) -> float:
    """GB/s, read and written, of copying one large tensor: the roofline of ops that move memory.

    `mib` is its size: 1024 on a GPU and 256 on a CPU if not given, far beyond any cache. Its values are random: equal
    ones take less power, and so may move faster than the values of a step.
    """
    numel = (mib or (1024 if device.type == "cuda" else 256)) * 2**20 // 4
    source, target = torch.rand(2, numel, device=device).unbind()
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device) / 1e9


def peak_mib(step: Callable[[], Any], device: torch.device) -> float:
    """Peak of tensor memory during a step above what is allocated before it.

    What the step frees before it allocates lowers the figure: hand it no gradients of an earlier step.
    """
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    live = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def machine(checkout: Path, device: torch.device) -> dict[str, Any]:
    """What figures depend on: device, driver, versions, threads, commit."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "transformers", "flash-attn", "xformers", "av", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "device": device_name(device),
        "driver": _driver(device),
        "versions": versions,
        "threads": torch.get_num_threads(),
        "commit": commit(checkout),
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def commit(checkout: Path) -> str:
    """The commit of a checkout, marked if files differ from it. For a copy without git: what GITHUB_SHA says."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    found = subprocess.run(git, capture_output=True, text=True)
    return found.stdout.strip() or os.environ.get("GITHUB_SHA", "unknown")[:12]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return "none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True).stdout.split()[0]
    except (OSError, IndexError):
        return "unknown"


@lru_cache
def _cache_filler(device: torch.device) -> Tensor:
    return torch.ones(2 * _cache_bytes(device) // 4, device=device)


def _cache_bytes(device: torch.device) -> int:
    """Size of the last cache before memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=UNKNOWN_CACHE_BYTES)
