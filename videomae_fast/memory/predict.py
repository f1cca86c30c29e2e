"""The memory that a training step would take on a GPU, predicted without one.

The step runs on fake tensors (`fake_cuda`) and every storage is counted (`MemoryProfile`): about a second, no data, the
same bytes every time. Every figure from here is a prediction, and must be labelled as one. It leaves out:
* workspaces within one operation, but for those that ops of videomae_kernels tell: flash attention's float32 gradient
  of the queries, cuBLAS (32 MiB on Hopper), cuDNN, sorts; the CUDA context, which the allocator's figures leave out;
* fragmentation and segment sizes: the prediction is of `torch.cuda.max_memory_allocated`, not of memory reserved;
* compiled code, whose fusions and buffers do not exist before it is compiled;
* an optimizer's choice for CUDA: by default it loops over parameters on a CPU, and uses `foreach` on CUDA. Pass `fused`
  or `foreach`.

For any model, write its step as a class and hand a function that makes it to `predict_step`:

    class ClassifierStep:
        def __init__(self, batch_size):
            self.model = torchvision.models.vit_b_16()
            self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
            self.set_batch_size(batch_size)

        def set_batch_size(self, batch_size):  # only StepPredictor needs it
            self.images = torch.zeros(batch_size, 3, 224, 224)
            self.labels = torch.zeros(batch_size, dtype=torch.int64)

        def __call__(self):
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):  # "cpu" stands for the GPU
                loss = F.cross_entropy(self.model(self.images), self.labels)
            loss.backward()
            self.optimizer.step()

    print(predict_step(lambda: ClassifierStep(256)).figures.table())
    with StepPredictor(lambda: ClassifierStep(1)) as predict:
        print(largest_batches(predict, CARDS))
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn

from .cache import PredictionCache
from .fake_cuda import ZeroValues, fake_cuda, to_host
from .figures import MemoryFigures
from .profile import MemoryProfile


class TrainingStep(Protocol):
    """A training step: calling it makes one, from zero_grad to the optimizer's step."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of its parameters."""

    def __call__(self) -> Any: ...


class ResizableStep(TrainingStep, Protocol):
    """A training step whose batch size can be changed: model and optimizer stay."""

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the inputs.

        Args:
            batch_size: samples of the new inputs.
        """


AnyStep = TypeVar("AnyStep", bound=TrainingStep)


@contextmanager
def fake_step(make: Callable[[], AnyStep]) -> Iterator[AnyStep]:
    """A step on fake tensors that has run once, so that its optimizer state exists.

    Args:
        make: builds the step, see `predict_step`.

    Yields:
        The step, which runs within the block only.

    Raises:
        ValueError: a boolean mask indexes, and the number of its True elements was not declared.
    """
    gc.collect()  # garbage of earlier steps must not be freed in the middle of this one
    with fake_cuda() as fake:
        fake.allow_non_fake_inputs = True  # constants from numpy and lists
        with ZeroValues(), mock.patch.object(nn.Module, "to", _cast_only):
            step = make()
        _leave_on_host(step.model)
        fake.allow_non_fake_inputs = False
        step()
        yield step


def predict_step(make: Callable[[], TrainingStep]) -> MemoryProfile:
    """Predict the memory of a training step on a GPU.

    Args:
        make: builds the step from tensors made on the device "cpu", which stands for the GPU. Weights may be
            initialised. Declare a boolean mask that indexes with `known_true`. A tensor that is a plain attribute of a
            module counts as host memory, because `Module.to` does not move it.

    Returns:
        The profile of the second step; `profile.figures` has the peak and its breakdown.

    Raises:
        ValueError: a boolean mask indexes, and the number of its True elements was not declared.
        NotImplementedError: attention has groups of queries (`enable_gqa`).
    """
    with fake_step(make) as step:
        return _profile(step)


class StepPredictor:
    """Predicts one step at several batch sizes, within a `with` block: model and optimizer state are made once.

    Args:
        make: builds the step; as in `predict_step`, and the step has `set_batch_size`.
        settings: plain values that decide the result, as the key of `cache`; None caches nothing.
        cache: where figures are kept between runs.
        on_prediction: called after every prediction, cached or new.
    """

    def __init__(
        self,
        make: Callable[[], ResizableStep],
        settings: Mapping[str, Any] | None = None,
        cache: PredictionCache | None = None,
        on_prediction: Callable[[], Any] = lambda: None,
    ) -> None:
        self._make, self._settings, self._on_prediction = make, settings, on_prediction
        self._cache = cache if settings is not None else None
        self._known: dict[int, MemoryFigures] = {}
        self._world = ExitStack()
        self._step: ResizableStep | None = None

    def __enter__(self) -> "StepPredictor":
        return self

    def __exit__(self, *error: Any) -> None:
        self._step = None
        self._world.close()

    def __call__(self, batch_size: int) -> MemoryFigures:
        """Predict a step.

        Args:
            batch_size: samples of the step.

        Returns:
            Its figures.

        Raises:
            ValueError: as `predict_step`.
            NotImplementedError: as `predict_step`.
        """
        if batch_size not in self._known:
            self._known[batch_size] = self._look_up(batch_size)
            self._on_prediction()
        return self._known[batch_size]

    def _look_up(self, batch_size: int) -> MemoryFigures:
        if self._cache is None or self._settings is None:
            return self._predict(batch_size)
        key = {**self._settings, "batch_size": batch_size}
        found = self._cache.load(key)
        if found is None:
            found = self._predict(batch_size)
            self._cache.save(key, found)
        return found

    def _predict(self, batch_size: int) -> MemoryFigures:
        if self._step is None:  # a figure that the cache knows needs no model
            self._step = self._world.enter_context(fake_step(self._make))
        self._step.set_batch_size(batch_size)
        gc.collect()
        return _profile(self._step).figures


def _profile(step: TrainingStep) -> MemoryProfile:
    with MemoryProfile(step.model, step.optimizer) as profile:
        step()
    return profile


def _cast_only(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Module.to for a fake model, which is on the device already. PyTorch's own often fails on fake parameters."""
    _, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    cast: dict[Tensor, Tensor] = {}  # a tensor may be in several modules
    for module in model.modules() if dtype is not None else ():
        held: tuple[dict[str, Any], ...] = module._parameters, module._buffers
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                    tensors[name] = cast.setdefault(tensor, _cast(tensor, dtype))
    return model


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    found = tensor.detach().to(dtype)
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found


def _leave_on_host(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, to_host(value))


def measure_step(step: TrainingStep, device: torch.device) -> int:
    """Measure the peak bytes of a step on a GPU by its allocator: the figure that `predict_step` predicts.

    Args:
        step: a step on real tensors; it runs twice, and the second run is measured.
        device: the GPU.

    Returns:
        The peak of `torch.cuda.max_memory_allocated`, in bytes.
    """
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)
