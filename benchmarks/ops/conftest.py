from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """torch.compile gives up on a function after a few shapes; every test starts anew."""
    torch._dynamo.reset()
    yield
