"""A process pool that survives crashes: apply a function to many items, in order, a few items ahead.

Video decoders are native code, and a damaged file can crash one, or hang it. This costs one process, and no other item.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # tasks waiting for each process
TIME_LIMIT = 600.0  # seconds
_HAS_TIMER = hasattr(signal, "setitimer")  # not on Windows


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    on_death: Callable[[Item, str], Result],
    time_limit: float = TIME_LIMIT,
) -> Iterator[Result]:
    """`map(function, items)` in several processes.

    When a process dies, the items in progress are repeated one after the other, each in a process of its own, until one
    of them kills its process: that item is to blame. A process dies, too, when an item takes longer than the time limit
    (in native code nothing else ends it), and when the process of the caller is gone.

    Args:
        function: applied to each item; it may be interrupted and repeated. Function, items and results must be
            picklable.
        items: taken only a few ahead of the results.
        workers: processes; 0 runs in this process, which a crash then ends, and without a time limit.
        on_death: called in this process with the item to blame and the reason; returns the item's result.
        time_limit: seconds for an item, counted from its start or the last `restart_time_limit` in it. Windows has no
            limit.

    Yields:
        The results, in the order of the items. An exception of `function` is raised in the place of its result.

    Raises:
        ValueError: `workers` is negative.
        BrokenProcessPool: processes die before they are given an item.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if workers == 0:
        yield from map(function, items)
        return
    queue = _Queue(function, workers, on_death, time_limit)
    try:
        for item in items:
            queue.put(item)
            if len(queue.tasks) >= _AHEAD * workers:
                yield queue.get()
        while queue.tasks:
            yield queue.get()
    finally:
        queue.pool.shutdown(cancel_futures=True)


def restart_time_limit() -> None:
    """Tell the time limit that the item in progress gets on, as one that is long may; without a limit it does nothing.

    Call it in the process that `function` runs in.
    """
    if _limit[-1]:
        # The system ends the process, also while it hangs in native code and holds Python's lock.
        signal.setitimer(signal.ITIMER_REAL, _limit[-1])


_limit = [0.0]  # last: seconds for the item in progress in this process, 0 for no limit


def _start_worker() -> None:
    if _HAS_TIMER:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the end of the process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # or it would wait forever for an item


def _limited(function: Callable[[Item], Result], time_limit: float, item: Item) -> Result:
    _limit.append(time_limit if _HAS_TIMER else 0.0)
    restart_time_limit()
    try:
        return function(item)
    finally:
        if _limit.pop():
            signal.setitimer(signal.ITIMER_REAL, 0)


class _Queue(Generic[Item, Result]):
    """Items in a process pool, first in, first out; a pool that an item broke is replaced."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        workers: int,
        on_death: Callable[[Item, str], Result],
        time_limit: float,
    ) -> None:
        self.function, self.workers, self.on_death = partial(_limited, function, time_limit), workers, on_death
        self.time_limit = time_limit
        self.pool = ProcessPoolExecutor(workers, initializer=_start_worker)
        self.tasks: deque[tuple[Item, Future[Result]]] = deque()

    def put(self, item: Item) -> None:
        self.tasks.append((item, self._submit(item)))

    def get(self) -> Result:
        """Take the first item out and return its result; raises what `function` raised."""
        if _is_lost(self.tasks[0][1]):
            self._recover()
        return self.tasks.popleft()[1].result()

    def _submit(self, item: Item) -> Future[Result]:
        try:
            return self.pool.submit(self.function, item)
        except BrokenProcessPool as error:  # `get` recovers when it comes to the first lost item
            future: Future[Result] = Future()
            future.set_exception(error)
            return future

    def _recover(self) -> None:
        """Find the item that broke the pool, and give the other lost ones to a new pool."""
        self.pool.shutdown()  # first: forking while the threads of a pool run is not safe
        lost = [index for index, (_, future) in enumerate(self.tasks) if _is_lost(future)]
        for index in lost[: self.workers]:  # items start in order, so the first ones were in progress
            item = self.tasks[index][0]
            future, survived = self._alone(item)
            self.tasks[index] = (item, future)
            if not survived:
                break
        self.pool = ProcessPoolExecutor(self.workers, initializer=_start_worker)
        self.tasks = deque((item, self._submit(item) if _is_lost(future) else future) for item, future in self.tasks)

    def _alone(self, item: Item) -> tuple[Future[Result], bool]:
        """Run an item in a process of its own; returns its result and whether the process survived."""
        with ProcessPoolExecutor(1, initializer=_start_worker) as pool:
            number = pool.submit(os.getpid).result()  # it waits for work, so it is a child now
            process = next(child for child in multiprocessing.active_children() if child.pid == number)
            future = pool.submit(self.function, item)
        if not _is_lost(future):
            return future, True
        answer: Future[Result] = Future()
        answer.set_result(self.on_death(item, self._reason(process.exitcode or 0)))
        return answer, False

    def _reason(self, code: int) -> str:
        if _HAS_TIMER and code == -signal.SIGALRM:
            return f"the process that read it made no progress for {self.time_limit:g} seconds"
        ending = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return f"the process that read it died ({ending})"


def _is_lost(future: Future) -> bool:
    """Wait for a task; True if there is no result because the pool broke."""
    return isinstance(future.exception(), BrokenProcessPool)
