"""One function over many items in several processes, in order, without holding all of the items' results back."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # tasks waiting for each process


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map(function, items)` in `workers` processes; 0 runs in this one. Errors: ValueError if `workers` is negative.

    A process that dies, which only native code can do to it, ends the iteration with BrokenProcessPool.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if workers == 0:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
