import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from videomae_fast.data.tools import process_pool as parallel
from videomae_fast.data.tools.process_pool import parallel_map, restart_time_limit


def square(item: int | str) -> int | str:
    """`item` squared, or the end of this process: by a signal, or by an exit code."""
    if item == "signal":
        faulthandler.disable()  # pytest's: no traceback of what is meant to happen
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    return int(item) ** 2


def count_and_square(item: tuple[Path, int | str]) -> int | str:
    """`square`, and one more byte in the file that counts how often it was asked to."""
    folder, number = item
    with open(folder / str(number), "ab") as file:
        file.write(b".")
    return square(number)


def dies_once(folder: Path) -> str:
    """Ends the process of the first call, as a lack of memory may."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return "alive"
    os._exit(1)


def died(item: object, reason: str) -> str:
    return f"{item}: {reason}"


CASES = {
    "none": list(range(12)),
    "first": ["signal", *range(11)],
    "last": [*range(11), "exit"],
    "several": [0, "exit", "exit", 3, 4, 5, 6, 7, 8, "signal", 10, 11],
    "all": ["signal", "exit"] * 3,
    "only": ["exit"],
    "nothing": [],
}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_death_is_the_result_of_its_item(case: str, workers: int) -> None:
    reasons = {"signal": f"signal 11, {signal.strsignal(11)}", "exit": "exit code 3"}
    expected = [
        f"{item}: the process that read it died ({reasons[item]})" if item in reasons else item**2
        for item in CASES[case]
    ]
    assert list(parallel_map(square, CASES[case], workers, died)) == expected


def test_only_what_was_under_way_is_repeated(tmp_path: Path) -> None:
    items = [*range(6), "exit", *range(7, 30)]
    results = list(parallel_map(count_and_square, [(tmp_path, item) for item in items], 1, died))
    assert [result for result in results if isinstance(result, int)] == [item**2 for item in items if item != "exit"]
    calls = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert calls.pop("exit") == 2 and set(calls.values()) == {1} and len(calls) == 29


def test_an_item_that_does_not_die_again_has_its_result(tmp_path: Path) -> None:
    assert list(parallel_map(dies_once, [tmp_path] * 3, 1, died)) == ["alive"] * 3


def test_no_more_than_a_few_items_are_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = parallel_map(square, items(), 2, died)
    assert next(results) == 0 and len(taken) == 8
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_function_come_in_order(workers: int) -> None:
    results = parallel_map(square, [2, "no number", 3] + ["exit"] * (workers > 0), workers, died)
    assert next(results) == 4
    with pytest.raises(ValueError, match="'no number'"):
        next(results)


def test_processes_that_never_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stillborn = partial(ProcessPoolExecutor, initializer=os._exit, initargs=(1,))
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", stillborn)
    with pytest.raises(BrokenProcessPool):
        list(parallel_map(square, range(3), 2, died))


def sleeps(item: float) -> float:
    time.sleep(item)
    return item


def sleeps_in_steps(item: float) -> float:
    for _ in range(5):
        sleeps(item / 5)
        restart_time_limit()
    return item


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")


@needs_timer
@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_hangs_costs_one_process(workers: int) -> None:
    results = list(parallel_map(sleeps, [0, 0.01, 60, 0.02, 0.03], workers, died, 0.4))
    assert results == [0, 0.01, "60: the process that read it made no progress for 0.4 seconds", 0.02, 0.03]


@needs_timer
def test_an_item_that_gets_on_may_take_longer() -> None:
    assert list(parallel_map(sleeps_in_steps, [0.8], 1, died, 0.4)) == [0.8]
    restart_time_limit()  # outside of an item it does nothing
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert list(map(sleeps, [0.01])) == list(parallel_map(sleeps, [0.01], 0, died, 0.001))  # nor in this process


CALLER = r"""
import os, sys, time
from videomae_fast.data.tools.process_pool import parallel_map

def report(item):
    os.write(1, f"{os.getpid()}\n".encode())  # in one piece: several processes write
    time.sleep(item)

if __name__ == "__main__":
    list(parallel_map(report, [0, 0, 100], 2, lambda item, reason: reason))
"""


def test_processes_end_with_their_caller(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    caller = subprocess.Popen([sys.executable, str(tmp_path / "caller.py")], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    workers = {int(caller.stdout.readline()) for _ in range(3)}
    caller.kill()
    try:
        caller.communicate(timeout=30)  # returns when nobody has its output open, so when all have ended
    except subprocess.TimeoutExpired:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        raise
