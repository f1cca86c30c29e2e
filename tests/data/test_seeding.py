import pytest

from videomae_fast.data import (
    sample_rng,
)


def test_sample_rng_depends_on_every_number_and_nothing_else() -> None:
    def draw(*numbers: int) -> tuple[int, ...]:
        return tuple(sample_rng(*numbers).integers(2**60, size=4).tolist())

    keys = [(seed, sample, attempt) for seed in (0, 1, 2**64 - 1) for sample in (0, 1, 2**40) for attempt in (0, 1)]
    drawn = {key: draw(*key) for key in keys}
    assert len({value for values in drawn.values() for value in values}) == 4 * len(keys)
    assert drawn == {key: draw(*key) for key in reversed(keys)}
    for bad in ((-1, 0), (2**64, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"must be in \[0, 2\*\*64\)"):
            sample_rng(*bad)
