"""What a teacher hands to a student: its rows at the tokens that the student sees.

Rows are raw. The loss normalises them, and so only those that were taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import choose_rows


@dataclass(frozen=True, eq=False)
class TeacherRows:
    """Rows of a teacher's layers at the visible tokens, as the teacher computed them: not normalised.

    Attributes:
        layers: of each layer in ascending order (B·M, R, D_T) floating; M masks of a clip follow each other. R is the
            number of visible tokens K; or 1 + K, row 0 being the cls token.
        pooled: (B, P), of each clip, or None.
    """

    layers: tuple[Tensor, ...]
    pooled: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """What a guiding teacher saw in B clips: where it looked, and the features of all its rows.

    A clip is seen in V views of T'/V token frames, each alone: an image encoder has V = T', a video encoder V = 1. A
    view has S rows: `prefix` rows that are no tokens, then its tokens.

    Attributes:
        attention: (B, T', H', W') float32 or wider, ≥ 0: the weights that masks are drawn by.
        layers: of each layer (B·V, S, D_T), views of a clip following each other.
        prefix: rows before the tokens; row 0 is the cls token if there are any.
        pooled: (B, P) or None.

    Raises:
        ValueError: there is no layer.
    """

    attention: Tensor
    layers: tuple[Tensor, ...]
    prefix: int
    pooled: Tensor | None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers must have one layer or more, got ()")

    def rows(self, visible: Tensor) -> TeacherRows:
        """The rows at the visible tokens; the cls token, if there is one, is the mean over the views.

        Args:
            visible: (B·M, K) int32 or int64 tokens, M masks of a clip following each other.

        Returns:
            The rows, R = 1 + K with a cls token, else R = K.

        Raises:
            ValueError: `visible` is not of M masks for each of the B clips.
        """
        batch, tokens = self.attention.shape[0], self.attention[0].numel()
        masks = masks_of(visible, batch)
        views = self.layers[0].shape[0] // batch
        of_view = tokens // views
        # Token k of a clip is row `prefix` + k % of_view of view k // of_view; all views of a clip are one list here.
        visible = visible.long().view(batch, -1)
        index = visible + self.prefix * (visible // of_view + 1)
        layers = tuple(self._gather(layer, index, batch, masks) for layer in self.layers)
        return TeacherRows(layers, self.pooled)

    def _gather(self, layer: Tensor, index: Tensor, batch: int, masks: int) -> Tensor:
        rows = choose_rows(layer.reshape(batch, -1, layer.shape[-1]), index).unflatten(1, (masks, -1))
        if self.prefix:
            cls = layer.unflatten(0, (batch, -1))[:, :, 0].mean(1)
            rows = torch.cat([cls[:, None, None].expand(-1, masks, -1, -1), rows], dim=2)
        return rows.flatten(0, 1)


def cat_rows(parts: Sequence[TeacherRows]) -> TeacherRows:
    """The rows of several parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    layers = tuple(torch.cat(layer) for layer in zip(*(part.layers for part in parts), strict=True))
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TeacherRows(layers, torch.cat(pooled) if pooled else None)


def masks_of(visible: Tensor, batch: int) -> int:
    """M of visible tokens (B·M, K).

    Args:
        visible: the tokens.
        batch: B.

    Returns:
        M.

    Raises:
        ValueError: they are not M masks of one token or more for each clip.
    """
    if visible.ndim != 2 or not visible.numel() or visible.shape[0] % batch:
        raise ValueError(
            f"visible must be (B·M, K) with M masks of one token or more for each of {batch} clips, got shape "
            f"{tuple(visible.shape)}"
        )
    return visible.shape[0] // batch


def check_rows(
    name: str,
    rows: TeacherRows | None,
    layers: int,
    shapes: Sequence[tuple[int, int, int]],
    pooled: tuple[int, int] | None,
) -> None:
    """Make sure that a teacher's rows are what a model's heads are compared with.

    Args:
        name: of the teacher, in messages.
        rows: what it handed over.
        layers: number of layers that have heads.
        shapes: allowed shapes of the layers, which must all have the same one.
        pooled: shape of the pooled row, or None where the model has no head for it.

    Raises:
        ValueError: rows are missing, more than the heads, or of another shape.
    """
    if rows is None:
        if layers or pooled:
            raise ValueError(
                f"{name} must be the TeacherRows of {layers} layers, which the model has heads for, got None"
            )
        return
    if len(rows.layers) != layers:
        raise ValueError(f"{name} must have {layers} layers, one for each head of the model, got {len(rows.layers)}")
    found = {tuple(layer.shape) for layer in rows.layers}
    if len(found) > 1 or not found <= set(shapes):
        raise ValueError(f"{name}.layers must all have the shape {' or '.join(map(str, shapes))}, got {sorted(found)}")
    came = None if rows.pooled is None else tuple(rows.pooled.shape)
    if came != pooled:
        raise ValueError(f"{name}.pooled must have the shape {pooled}, got {came}")
