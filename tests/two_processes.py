"""Starts two processes that know of each other, without a GPU."""

import socket
import subprocess
from collections.abc import Sequence

from tests.forks import run_forks


def run_in_two_processes(command: Sequence[str]) -> str:
    """Run a command line of Python twice, as torchrun would start it, with Accelerate on the CPU.

    Args:
        command: as after `python`, for example "-m", a module and its arguments.

    Returns:
        What both printed.

    Raises:
        AssertionError: one failed, with what both wrote to stderr.
        TimeoutError: they did not end.
    """
    try:
        both = _run(command)
    except TimeoutError:  # the port was free, and may have been taken before the first process listened
        both = _run(command)
    assert not any(process.returncode for process in both), "\n".join(process.stderr for process in both)
    return "".join(process.stdout for process in both)


def _run(command: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    return run_forks([command] * 2, [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"], timeout=150)
