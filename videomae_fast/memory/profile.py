"""Where the memory of a training step goes: its peak, by purpose and by the module that allocated it.

`MemoryProfile` follows every tensor storage that PyTorch's dispatcher shows, from the operation that makes it until it
is freed, in the 512-byte blocks of the CUDA caching allocator. Real and fake tensors are counted alike.

Categories of storages:
* parameters, buffers, gradients, optimizer state: as the model and the optimizer hold them; a storage that becomes a
  gradient counts as one from the moment it is made;
* inputs: storages that existed before the block and are used in it; storages that it never touches are not counted;
* activations: storages made in forward and alive when backward begins, or made when backward recomputes forward work
  and alive when it continues. They include autocast's copies of weights, and tensors that the caller's variables hold;
* temporaries: all other storages, such as storages that die within forward, and backward's own.

An operation that allocates and frees within itself (a workspace) shows nothing of it. Ops of videomae_kernels whose
kernels take a workspace that grows as their rows tell its size, which is a temporary, on a GPU and among fake tensors.

Not visible: workspaces of all other operations, the allocator's fragmentation, and the allocations of compiled code:
profile the model before `torch.compile`.
"""

import weakref
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from videomae_kernels._custom_op import workspace_bytes

from .figures import Allocation, MemoryFigures

BLOCK = 512  # bytes; the CUDA caching allocator rounds every request up to a multiple
OUTSIDE = "(outside the model)"


class MemoryProfile(TorchDispatchMode):
    """Follows the memory of the block that it is entered for: one or more training steps of a model.

    Real and fake tensors are counted alike, on the device of the model's parameters. One profile serves one block.

    Args:
        model: the model that is trained; its module paths name the activations.
        optimizer: the optimizer that steps within the block, if any. Its state is then a category of its own.

    Attributes:
        figures: the `MemoryFigures` of the block, once it has ended.

    Raises:
        ValueError: `model` has no parameters, or has compiled parts.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from videomae_fast.memory import MemoryProfile
        >>> model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> with MemoryProfile(model, optimizer) as profile:
        ...     model(torch.zeros(512, 256)).square().mean().backward()
        ...     optimizer.step()
        >>> print(profile.figures.table(depth=1))  # doctest: +ELLIPSIS
        Peak 1... MiB (...
    """

    figures: MemoryFigures

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        super().__init__()
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules()):
            raise ValueError("model has compiled parts, whose memory cannot be followed: profile it before compiling")
        groups = optimizer.param_groups if optimizer else []
        self._parameters = dict.fromkeys(chain(model.parameters(), *(group["params"] for group in groups)))
        if not self._parameters:
            raise ValueError(f"model must have parameters, {type(model).__name__} has none")
        self._model, self._optimizer = model, optimizer
        self._device = next(iter(self._parameters)).device
        self._handles: list[Any] = []
        self._paths: dict[nn.Module, str] = {}
        self._live: dict[int, tuple[Allocation, weakref.ref[Any]]] = {}
        self._allocations: list[Allocation] = []
        self._clock = 0
        self._phase = "before"
        self._is_forward_work = False
        self._path: list[str] = []  # of the modules that are running
        self._fresh: list[Allocation] = []  # made by forward computation, not yet known to be kept
        self._marks: list[tuple[int, str]] = [(0, OUTSIDE)]  # from which autograd node on forward ran in which module
        self._forward_ends: list[int] = []

    def __enter__(self) -> "MemoryProfile":
        for parameter in self._parameters:
            self._follow(parameter, "parameters")
            if parameter.grad is not None:
                self._follow(parameter.grad, "gradients")
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._on_gradient))
        for buffer in self._model.buffers():
            self._follow(buffer, "buffers")
        for state in self._optimizer_state():
            self._follow(state, "optimizer state")
        self._paths = {module: name or type(module).__name__ for name, module in self._model.named_modules()}
        # Hooks of all modules, not of each: a `Linear` with a hook of its own computes its map in another way.
        self._handles.append(register_module_forward_pre_hook(self._on_enter))
        self._handles.append(register_module_forward_hook(self._on_leave, always_call=True))
        if self._optimizer:
            self._handles.append(self._optimizer.register_step_pre_hook(partial(self._on_optimizer, "optimizer")))
            self._handles.append(self._optimizer.register_step_post_hook(partial(self._on_optimizer, "forward")))
        self._clock, self._phase = 1, "forward"
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        for state in self._optimizer_state():
            self._relabel(state, "optimizer state")
        self._live.clear()
        self.figures = MemoryFigures.of(self._allocations, self._clock, self._forward_ends)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._notice_phase()
        if func is torch.ops.prim.device.default:  # autograd asks fake tensors, thrice as often as there are operations
            return args[0].device
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, "inputs")
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            self._follow(tensor, "temporaries", str(func))
        if (size := workspace_bytes(func, args)) and self._stands_for_gpu(out):
            self._pass_by(size, str(func))
        return out

    def _notice_phase(self) -> None:
        if self._phase == "optimizer":
            return
        phase = "backward" if torch._C._current_graph_task_id() >= 0 else "forward"
        is_forward_work = phase == "forward" or torch.is_grad_enabled()  # backward enables it to repeat forward work
        if self._is_forward_work and not is_forward_work:
            self._keep_fresh()
        if self._phase == "forward" and phase == "backward":
            self._forward_ends.append(self._clock - 1)
        self._phase, self._is_forward_work = phase, is_forward_work

    def _follow(self, tensor: Tensor, category: str, op: str = "") -> None:
        if tensor.device != self._device:
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), -(-storage.nbytes() // BLOCK) * BLOCK
        known = self._live.get(key)
        if known and known[0].size == size:
            return
        if known:  # it was resized: another block for the same purpose
            self._free(key)
            category = known[0].category
        if known or category == "temporaries":
            made = Allocation(size, self._tick(), self._phase, self._module(), op, category)
            if self._is_forward_work and self._phase != "optimizer":
                self._fresh.append(made)
        else:
            made = Allocation(size, 0, "before", OUTSIDE, op, category)
        self._allocations.append(made)
        self._live[key] = made, weakref.ref(storage, partial(self._free, key))

    def _stands_for_gpu(self, out: Any) -> bool:
        return self._device.type == "cuda" or any(isinstance(tensor, FakeTensor) for tensor in _tensors(out))

    def _pass_by(self, size: int, op: str) -> None:
        """A workspace: it is allocated once the outputs are, and freed."""
        size = -(-size // BLOCK) * BLOCK
        made = Allocation(size, self._tick(), self._phase, self._module(), op, "temporaries")
        made.died = self._tick()
        self._allocations.append(made)

    def _free(self, key: int, _: Any = None) -> None:
        if key in self._live:
            self._live.pop(key)[0].died = self._tick()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock - 1

    def _module(self) -> str:
        """The module that is running forward, or whose backward is running."""
        if self._path:
            return self._path[-1]
        node = torch._C._current_autograd_node() if self._phase == "backward" else None
        if node is None or "AccumulateGrad" in node.name():  # whose number says nothing
            return OUTSIDE
        return self._marks[bisect_right(self._marks, node._sequence_nr(), key=lambda mark: mark[0]) - 1][1]

    def _keep_fresh(self) -> None:
        for allocation in self._fresh:
            if allocation.died is None and allocation.category == "temporaries":
                allocation.category = "activations"
        self._fresh.clear()

    def _relabel(self, tensor: Tensor, category: str) -> None:
        found = self._live.get(id(tensor.untyped_storage()))
        if found and found[0].category in ("temporaries", "activations"):
            found[0].category = category

    def _on_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._relabel(parameter.grad, "gradients")

    def _on_enter(self, module: nn.Module, *_: Any) -> None:
        if module in self._paths:
            self._path.append(self._paths[module])
            self._mark()

    def _on_leave(self, module: nn.Module, *_: Any) -> None:
        if module in self._paths:
            self._path.pop()
            self._mark()

    def _mark(self) -> None:
        if self._phase == "forward":
            self._marks.append((torch.autograd._get_sequence_nr(), self._path[-1] if self._path else OUTSIDE))

    def _on_optimizer(self, phase: str, *_: Any) -> None:
        self._phase = phase

    def _optimizer_state(self) -> Iterator[Tensor]:
        states = self._optimizer.state.values() if self._optimizer else ()
        return _tensors([list(state.values()) for state in states])


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))
