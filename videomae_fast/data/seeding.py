"""Random generators that are functions of numbers, so that workers, ranks and the order of draws do not matter.

Philox is counter-based with the key (seed, number), so the random numbers of any sample can be made anywhere, in any
order.
"""

import numpy as np

RAND_AUGMENT, ERASING, MIXING = range(3)  # kinds of `augmentation_rng`
_LIMIT = 2**64


def sample_rng(seed: int, sample: int, attempt: int = 0) -> np.random.Generator:
    """Make the random generator of one sample.

    Args:
        seed: of the run, in [0, 2**64).
        sample: number of the sample, in [0, 2**64).
        attempt: how many videos of the sample could not be read so far.

    Returns:
        A Philox generator that depends on the three numbers alone.

    Raises:
        ValueError: a number is out of range.

    References:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    return _philox(seed, sample, purpose=0, stream=attempt)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """Make the generator that shuffles an epoch.

    Args:
        seed: of the run, in [0, 2**64).
        epoch: number of the epoch, in [0, 2**64).

    Returns:
        A Philox generator that depends on both numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, epoch, purpose=1, stream=0)


def pass_rng(seed: int, number: int, source: int) -> np.random.Generator:
    """Make the generator that shuffles the videos of a source for one pass.

    Args:
        seed: of the run, in [0, 2**64).
        number: number of the pass, in [0, 2**64).
        source: number of the source, in [0, 2**64).

    Returns:
        A Philox generator that depends on the three numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, number, purpose=2, stream=source)


def augmentation_rng(seed: int, sample: int, kind: int) -> np.random.Generator:
    """Make the generator of one kind of augmentation of one clip.

    Args:
        seed: of the run, in [0, 2**64).
        sample: sample number of the clip, in [0, 2**64).
        kind: RAND_AUGMENT, ERASING or MIXING; draws of other kinds are independent.

    Returns:
        A Philox generator that depends on the three numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, sample, purpose=3, stream=kind)


def operation_rng(seed: int, number: int) -> np.random.Generator:
    """Make the generator of one clip of known operations.

    Args:
        seed: of the clips, in [0, 2**64).
        number: number of the clip, in [0, 2**64).

    Returns:
        A Philox generator that depends on both numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, number, purpose=4, stream=0)


def caption_rng(seed: int, sample: int) -> np.random.Generator:
    """Make the generator that draws one of a sample's captions.

    Args:
        seed: of the run, in [0, 2**64).
        sample: number of the sample, in [0, 2**64).

    Returns:
        A Philox generator that depends on both numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, sample, purpose=5, stream=0)


def event_rng(seed: int, number: int) -> np.random.Generator:
    """Make the generator of one clip of two events.

    Args:
        seed: of the clips, in [0, 2**64).
        number: number of the clip, in [0, 2**64).

    Returns:
        A Philox generator that depends on both numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, number, purpose=6, stream=0)


def sound_rng(seed: int, sample: int) -> np.random.Generator:
    """Make the generator that draws which seconds of a long sound a sample has.

    Args:
        seed: of the run, in [0, 2**64).
        sample: number of the sample, in [0, 2**64).

    Returns:
        A Philox generator that depends on both numbers alone.

    Raises:
        ValueError: a number is out of range.
    """
    return _philox(seed, sample, purpose=7, stream=0)


def _philox(seed: int, number: int, purpose: int, stream: int) -> np.random.Generator:
    for name, value in (("seed", seed), ("number", number), ("stream", stream)):
        if not 0 <= value < _LIMIT:
            raise ValueError(f"{name} must be in [0, 2**64), got {value}")
    # Draws advance the counter's low word; the high words keep purposes and streams apart.
    key = np.array([seed, number], dtype=np.uint64)
    counter = np.array([0, 0, stream, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
