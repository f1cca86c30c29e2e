"""PyTorch's profiler, without the lines about its own start and stop."""

import os
from collections.abc import Sequence
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

_NOTHING = "6"  # Kineto prints its USDT probes at level 5, above errors


def profile(activities: Sequence[ProfilerActivity], profile_memory: bool = False) -> Any:
    """Make a `torch.profiler.profile`.

    Kineto reads KINETO_LOG_LEVEL when the first one of a process starts; a level that the user has set stays.

    Args:
        activities: what is recorded.
        profile_memory: whether requests of memory are recorded.

    Returns:
        The profiler, a context manager.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", _NOTHING)
    return torch_profile(activities=activities, profile_memory=profile_memory)
