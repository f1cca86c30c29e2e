"""Whether checks may look at the values of a tensor."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def can_be_read(x: Tensor) -> bool:
    """Whether reading a value costs nothing: on a CPU, but not while a graph is traced or memory is predicted."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not isinstance(x, FakeTensor)
