"""What all teachers of an alignment share: frozen, without gradients, in a precision of their own, part by part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from .encoder import Clip
from .positions import Grid
from .teachers import Observation, TeacherRows, cat_rows

_HALF = torch.bfloat16, torch.float16
_PART_BYTES = 2**30  # of one part of a batch, by `Teacher.parts`


class Teacher:
    """A frozen model of one precision: the base of all teachers.

    Weights of matrix products are kept in `dtype` and nowhere else; norms, LayerScale, positions and biases stay as
    they are, float32 if they were half, and autocast computes with them as in the published teachers. For float32 and
    float64, all is `dtype`, and autocast is off, whatever surrounds the call.

    Args:
        model: any module; it is changed in place: evaluation mode, frozen, cast.
        name: for messages.
        grid: (T', H', W') tokens of a clip.
        layers: ascending block numbers whose rows are handed over.
        depth: blocks of the model.
        dim: D_T, width of the rows.
        has_cls: whether row 0 of what is handed over is a cls token.
        bytes_per_clip: about what a clip needs while the model runs.
        dtype: bfloat16, float16, float32 or float64.
        clips_at_once: clips of a part of a batch, or None to decide by `bytes_per_clip`.

    Raises:
        ValueError: `layers` are not ascending block numbers below `depth`, or `clips_at_once` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        grid: Grid,
        layers: Sequence[int],
        depth: int,
        dim: int,
        has_cls: bool,
        bytes_per_clip: int,
        dtype: torch.dtype,
        clips_at_once: int | None,
    ) -> None:
        self.layers = tuple(layers)
        if not self.layers or list(self.layers) != sorted({*self.layers}) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending block numbers from 0, got {self.layers}")
        if self.layers[-1] >= depth:
            raise ValueError(f"layers must be below {depth}, the blocks of teacher {name}, got {self.layers}")
        if clips_at_once is not None and clips_at_once < 1:
            raise ValueError(f"clips_at_once must be positive, got {clips_at_once}")
        self.name, self.grid, self.dim, self.has_cls, self.dtype = name, grid, dim, has_cls, dtype
        self.model = freeze(model, dtype)
        self.clips_at_once = clips_at_once or max(1, _PART_BYTES // bytes_per_clip)

    def parts(self, batch: int) -> Iterator[slice]:
        """The parts of a batch that are run one after the other: `clips_at_once` clips each, the last maybe fewer."""
        for begin in range(0, batch, self.clips_at_once):
            yield slice(begin, min(begin + self.clips_at_once, batch))

    @contextmanager
    def running(self, clip: Clip) -> Iterator[None]:
        """Without gradients, in the teacher's own precision."""
        half = self.dtype in _HALF
        autocast = torch.autocast(clip.device.type, self.dtype if half else None, enabled=half, cache_enabled=False)
        with torch.no_grad(), autocast:
            yield

    def check_grid(self, grid: Grid) -> None:
        """Make sure that the student has the same tokens.

        Args:
            grid: (T', H', W') tokens of the student.

        Raises:
            ValueError: it has others; the message has both.
        """
        if tuple(grid) != tuple(self.grid):
            raise ValueError(
                f"teacher {self.name} has a grid of {_times(self.grid)} tokens, the student of {_times(grid)}: rows "
                "are compared token by token, so frames, image size, tubelet and patch size must give the same grid"
            )


def freeze(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a teacher of a model: evaluation mode, no gradients, matrices in `dtype`; see `Teacher`. In place.

    Args:
        model: any module, also on the device "meta", so that memory is never taken for weights of another precision.
        dtype: bfloat16, float16, float32 or float64.

    Returns:
        The model.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in (*_HALF, torch.float32, torch.float64):
        raise ValueError(f"dtype must be bfloat16, float16, float32 or float64, got {dtype}")
    model.requires_grad_(False).eval()
    if dtype not in _HALF:
        return model.to(dtype)
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if _is_matrix(module, name):
                tensor.data = tensor.data.to(dtype)
            elif tensor.dtype in _HALF:  # as some models are saved
                tensor.data = tensor.data.float()
    return model


def _is_matrix(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_weight"
    return isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and name == "weight"


class Guide(Protocol):
    """A teacher that also says where to look."""

    name: str
    grid: Grid
    layers: tuple[int, ...]
    dim: int
    has_cls: bool
    pooled_dim: int | None

    def parts(self, batch: int) -> Iterator[slice]: ...

    def observe(self, clip: Clip) -> Observation: ...


def observe_and_draw(guide: Guide, clip: Clip, draw: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, TeacherRows]:
    """Run a guide on a batch part by part: of each part masks are drawn, and only the rows at these masks are kept.

    Args:
        guide: the teacher.
        clip: (B, C, T, H, W) or CroppedClips.
        draw: makes the masks of a part: of its attention (b, T', H', W') and its place in the batch, the visible tokens
            (b·M, K), as `videomae_fast.masks.guided_masks` does.

    Returns:
        (visible, rows): (B·M, K), and the teacher's rows there.

    Raises:
        FloatingPointError: masks cannot be drawn, and what the guide saw is not finite; the message names its layers.
        ValueError: masks cannot be drawn for another reason, as `draw` says.
    """
    drawn: list[Tensor] = []
    rows: list[TeacherRows] = []
    for part in guide.parts(clip.shape[0]):
        observation = guide.observe(clip[part])
        try:
            drawn.append(draw(observation.attention, part))
        except ValueError as error:
            if found := find_nonfinite(guide, observation):
                raise FloatingPointError(found) from error
            raise
        rows.append(observation.rows(drawn[-1]))
        del observation  # before the next part is run
    return torch.cat(drawn), cat_rows(rows)


def last_layers(depth: int, count: int, interval: float = 1.0) -> tuple[int, ...]:
    """The published choice of a teacher's layers, ascending.

        depth − 1 − int(i · interval),  i < count

    Args:
        depth: blocks of the model.
        count: layers wanted.
        interval: blocks from one to the next; 3.34 in the distillation of InternVideo2-1B.

    Returns:
        `count` block numbers.

    Raises:
        ValueError: the model has not so many blocks.

    References:
        `return_index`, OpenGVLab/InternVideo, InternVideo2/single_modality/models/internvideo2_teacher.py.
    """
    layers = tuple(depth - 1 - int(i * interval) for i in reversed(range(count)))
    if count < 1 or interval < 1 or layers[0] < 0:
        raise ValueError(f"{count} layers at intervals of {interval} do not fit a teacher of {depth} blocks")
    return layers


def find_nonfinite(teacher: Teacher | Guide, rows: TeacherRows | Observation) -> str:
    """Which of a teacher's rows are infinite or not a number. The host waits for the device: call it after a failure.

    Args:
        teacher: the teacher.
        rows: what it handed over, or saw.

    Returns:
        A phrase that names the teacher and its layers; "" if all rows are finite.
    """
    named = [(f"layer {number}", layer) for number, layer in zip(teacher.layers, rows.layers, strict=True)]
    named += [("the pooled row", rows.pooled)] if rows.pooled is not None else []
    named += [("the attention", rows.attention)] if isinstance(rows, Observation) else []
    bad = [what for what, tensor in named if not bool(tensor.isfinite().all())]
    return f"teacher {teacher.name} computed NaN or infinity in {', '.join(bad)}" if bad else ""


def _times(grid: Sequence[int]) -> str:
    return "x".join(map(str, grid))
