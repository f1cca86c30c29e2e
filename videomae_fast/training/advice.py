"""What to change when a run waits for its videos."""

import math
import os

from .meter import Window

HIGH_WAIT = 0.2  # share of the time


class Advisor:
    """Says once in a run what to change, if its videos are waited for; not while workers are only starting."""

    def __init__(self, workers: int, cores: int | None = None) -> None:
        """`workers` load for this training process; `cores` it may use (None: its share of the machine's)."""
        self.workers, self.cores = workers, cores or _cores_of_a_process()
        self.has_started = self.has_spoken = False

    def advice(self, window: Window) -> str:
        """A line about the run since its last log line, or an empty one."""
        started, self.has_started = self.has_started, True
        line = waiting_advice(window, self.workers, self.cores) if started and not self.has_spoken else ""
        self.has_spoken = self.has_spoken or bool(line)
        return line


def waiting_advice(window: Window, workers: int, cores: int) -> str:
    """What to change, from what loading and training took; empty if waiting took less than `HIGH_WAIT`."""
    share = window.waited / window.elapsed
    if share < HIGH_WAIT:
        return ""
    loading, training = window.loading / window.steps, (window.elapsed - window.waited) / window.steps
    needed = math.ceil(loading / training)
    found = (
        f"{share:.0%} of the time is waiting for videos: a batch takes a worker {loading:.2f} s and the model "
        f"{training:.2f} s, which {needed} workers would keep up with; there are {workers}, on {cores} cores"
    )
    if needed <= workers:
        return f"{found}. That should do: see what else the cores are busy with"
    if needed <= cores:
        return f"{found}. Use --workers {needed}"
    return (
        f"{found}. Make the videos cheaper to decode (videomae-fast transcode, or --short-side), "
        "or cut more crops from each (--crops_per_video)"
    )


def _cores_of_a_process() -> int:
    """Processor cores for each training process of this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
