"""Signals that end a run: the first asks it to save and stop, another one ends it at once."""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

# A second signal within this time is the first one again: `timeout`, torchrun and schedulers signal a process and its
# group, so that a process of the group gets each signal twice.
GRACE = 2.0  # seconds


class StopSignals:
    """Answers SIGTERM and SIGINT (Ctrl-C) inside a `with` block; the handlers of before return after it.

    Attributes:
        name: the first signal, such as "SIGTERM"; "" if none has arrived.
    """

    def __init__(self, speaks: bool) -> None:
        """Prepare; the handlers are set when the block begins.

        Args:
            speaks: whether this process tells what happens.
        """
        self.speaks, self.name, self.since = speaks, "", 0.0
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self.previous[number] = signal.signal(number, self._answer)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self.since = signal.Signals(number).name, time.monotonic()
            if self.speaks:  # print could be interrupted within itself
                line = f"\n{self.name}: saving after this step; another signal, after {GRACE:.0f} s, stops at once\n"
                os.write(2, line.encode())
        elif time.monotonic() - self.since > GRACE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
