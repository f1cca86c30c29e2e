"""A progress bar on stderr, with tqdm where it is installed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A bar of `total` parts within a `with` block.

    Args:
        total: the number of parts that are expected.
        what: names a part, in the plural.

    Yields:
        A function that says that one more part is done.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield _counter(total, what)
        print(file=sys.stderr)
        return
    with tqdm(total=total, unit=f" {what}", file=sys.stderr) as bar:

        def advance() -> None:
            bar.total = max(bar.total, bar.n + 1)
            bar.update()

        yield advance
        bar.total = bar.n
        bar.refresh()


def _counter(total: int, what: str) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        print(f"\r{done} of {max(done, total)} {what}", end="", file=sys.stderr, flush=True)

    return advance
