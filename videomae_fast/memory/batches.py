"""The largest batch that fits on a card, from predictions at a few batch sizes."""

from collections.abc import Callable, Mapping

from .figures import MemoryFigures
from .profile import BLOCK

# Assumptions, not measurements. The capacity is about what PyTorch reports as a card's total memory, in GiB. The
# allowance covers memory that is not predicted: a CUDA context of about 0.5 GiB, workspaces and fragmentation.
CAPACITY_GIB = {"A100-40": 39.4, "A100-80": 79.1, "H100-80": 79.1, "H200": 139.7}
ALLOWANCE_GIB = 2.0
CARDS = {name: int((capacity - ALLOWANCE_GIB) * 2**30) for name, capacity in CAPACITY_GIB.items()}  # usable bytes


def largest_batches(
    predict: Callable[[int], MemoryFigures], usable: Mapping[str, int], known: tuple[int, int] = (64, 128)
) -> dict[str, int]:
    """Find the largest batch that fits on each card.

    Live bytes at every moment of a step are affine in the batch size, up to the rounding of blocks: two predictions
    give a line for every moment, and the lines give the largest batch. If the two have different numbers of moments, as
    those of a loss in tiles, the line of the peaks is taken: peaks are convex, so if a third is on the line of two, all
    between are, and those beyond are above. The batch that is found is then predicted itself. If it does not fit, or
    its peak is not on the lines, the step is not affine, and `largest_batch` searches.

    Args:
        predict: figures at a batch size, such as a `StepPredictor`.
        usable: bytes by card, such as `CARDS`.
        known: the two batch sizes that give the lines.

    Returns:
        Batch size by card; 0 where not even one sample fits.
    """
    low, high = known
    timelines = predict(low).timeline, predict(high).timeline
    if len(timelines[0]) != len(timelines[1]):
        timelines = [max(timelines[0])], [max(timelines[1])]
    found = {}
    for card, size in usable.items():
        batch = _on_the_lines(known, timelines, size)
        if batch is None or not _is_affine(predict(batch), known, timelines, batch, size):
            batch = largest_batch(lambda batch_size: predict(batch_size).peak_bytes, size)
        found[card] = batch
    return found


def _on_the_lines(known: tuple[int, int], timelines: tuple[list[int], list[int]], usable: int) -> int | None:
    """The largest batch at which every line is at most `usable`; None if there is no positive answer."""
    low, high = known
    pairs = list(zip(*timelines, strict=True))
    limits = [low + (usable - a) * (high - low) // (b - a) for a, b in pairs if b > a]
    fits = limits and min(limits) > 0 and all(a <= usable for a, b in pairs if b <= a)
    return min(limits) if fits else None


def _is_affine(
    found: MemoryFigures, known: tuple[int, int], timelines: tuple[list[int], list[int]], batch: int, usable: int
) -> bool:
    """Whether a predicted batch fits and lies on the lines, up to one block of rounding for each storage."""
    low, high = known
    expected = max(a + (b - a) * (batch - low) / (high - low) for a, b in zip(*timelines, strict=True))
    rounding = BLOCK * len(found.timeline)
    return found.peak_bytes <= usable and abs(found.peak_bytes - expected) <= rounding


def largest_batch(peak_bytes: Callable[[int], int], usable: int) -> int:
    """Search the largest batch that fits, for any step.

    The peak is nearly affine in the batch size, so a line through two predictions proposes the answer. It is returned
    only once it is itself predicted to fit and the next batch is predicted not to.

    Args:
        peak_bytes: maps a batch size to its predicted peak.
        usable: bytes, such as one of `CARDS`.

    Returns:
        The largest batch whose peak is at most `usable`; 0 if there is none.
    """
    peaks = {batch: peak_bytes(batch) for batch in (64, 128)}
    crawls = False  # whether the last guess was next to a known batch size, and was not the answer
    while True:
        fits = max((batch for batch, peak in peaks.items() if peak <= usable), default=0)
        fails = min((batch for batch, peak in peaks.items() if peak > usable), default=None)
        if fails == fits + 1:
            return fits
        known = sorted(peaks)
        position = len(known) if fails is None else known.index(fails)
        low, high = known[min(max(position - 1, 0), len(known) - 2) :][:2]
        rise = peaks[high] - peaks[low]
        guess = low + (usable - peaks[low]) * (high - low) // rise if rise > 0 else 2 * high
        batch = max(guess, fits + 1)
        if fails is not None:
            batch = (fits + fails) // 2 if crawls else min(batch, fails - 1)
        crawls = batch == fits + 1 or (fails is not None and batch == fails - 1)
        peaks[batch] = peak_bytes(batch)
