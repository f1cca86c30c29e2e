"""What a teacher hands to a student: its rows at the tokens that the student sees."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


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
