"""Random generators that depend on numbers, never on who draws or in what order.

Philox is counter-based: (seed, number) is its key, so any sample's randomness can be made anywhere, at any time.
"""

import numpy as np

_LIMIT = 2**64


def sample_rng(seed: int, sample: int, attempt: int = 0) -> np.random.Generator:
    """The generator of sample number `sample`; `attempt` counts the replacements of unreadable videos."""
    return _philox(seed, sample, purpose=0, stream=attempt)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The generator that shuffles epoch `epoch`."""
    return _philox(seed, epoch, purpose=1, stream=0)


def pass_rng(seed: int, turn: int, source: int) -> np.random.Generator:
    """The generator that shuffles the videos of source number `source` for its pass number `turn`."""
    return _philox(seed, turn, purpose=2, stream=source)


def _philox(seed: int, number: int, purpose: int, stream: int) -> np.random.Generator:
    for name, value in (("seed", seed), ("number", number), ("stream", stream)):
        if not 0 <= value < _LIMIT:
            raise ValueError(f"{name} must be in [0, 2**64), got {value}")
    # Draws advance the counter's low word; the high words keep purposes and streams apart.
    key = np.array([seed, number], dtype=np.uint64)
    counter = np.array([0, 0, stream, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
