"""The journal of a run: a line of JSON for what each test measured, so that a run can be cut off and go on later."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SAME = ("device", "commit", "versions")  # of the machines of runs that may be put together


class Journal:
    """The journal of the run that is under way.

    Args:
        path: of the file. If it exists, the run goes on where the journal ends.
        machine: what figures depend on, as `measure.machine` gives it.

    Raises:
        ValueError: the file is of another device, commit or version.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path = path
        if path.exists():
            found = read_journal(path)
            before, now = ({name: of.get(name) for name in SAME} for of in (found["machine"], machine))
            if before != now:
                raise ValueError(f"{path} cannot be gone on with: it is of {before}, and this is {now}")
            self.finished = {test["nodeid"] for test in found["tests"]}
            self._repair()
        else:
            self.finished = set()
            date = datetime.now(timezone.utc).isoformat()[:19]
            self._write({"machine": dict(machine), "date": date}, "w")

    def add(self, nodeid: str, benchmark: Any) -> None:
        """Add a test that has passed: its record, and the seconds of its samples."""
        seconds = list(benchmark.stats.stats.data)
        self._write({"nodeid": nodeid, "record": benchmark.extra_info["record"], "seconds": seconds}, "a")

    def _repair(self) -> None:
        """Drop a last line that was cut off, so that the next one begins a line."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        self.path.write_text("".join(line for line in lines if line.endswith("\n")), encoding="utf-8")

    def _write(self, line: Mapping[str, Any], mode: str) -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_journal(path: Path) -> dict[str, Any]:
    """{"machine", "date", "tests"} of a journal. A last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first, *tests = [json.loads(line) for line in lines if line.endswith("\n")]
    return {**first, "tests": tests}
