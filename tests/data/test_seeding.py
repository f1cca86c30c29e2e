from collections.abc import Callable

import numpy as np
import pytest

from videomae_fast.data import sample_rng
from videomae_fast.data.seeding import augmentation_rng


@pytest.mark.parametrize("make", [sample_rng, augmentation_rng])
def test_generators_depend_on_every_number_and_nothing_else(make: Callable[..., np.random.Generator]) -> None:
    def draw(*numbers: int) -> tuple[int, ...]:
        return tuple(make(*numbers).integers(2**60, size=4).tolist())

    keys = [(seed, sample, third) for seed in (0, 1, 2**64 - 1) for sample in (0, 1, 2**40) for third in (0, 1)]
    drawn = {key: draw(*key) for key in keys}
    assert len({value for values in drawn.values() for value in values}) == 4 * len(keys)
    assert drawn == {key: draw(*key) for key in reversed(keys)}
    for bad in ((-1, 0, 0), (2**64, 0, 0), (0, -1, 0)):
        with pytest.raises(ValueError, match=r"must be in \[0, 2\*\*64\)"):
            make(*bad)


def test_purposes_have_different_draws() -> None:
    drawn = [make(1, 2, 0).integers(2**60) for make in (sample_rng, augmentation_rng)]
    assert len(set(drawn)) == 2
