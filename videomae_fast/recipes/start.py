"""Start a classifier from weights: the source of `--init`, the rows of its head, and how its positions are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..data import read_classes
from ..engine.checkpoint import list_checkpoints
from ..interop import (
    Classifier,
    class_names_beside,
    head_rows,
    init_weights,
    lists_rows,
    read_head_rows,
    read_merged_names,
)
from ..models.families import VideoClassifier
from .config import option
from .options import RunOptions


@dataclass(frozen=True)
class ClassifierRun(RunOptions):
    """The output, start, end and reports of a run that trains a classifier."""

    init: str = option(
        "",
        "weights to start from: of pre-training or a classifier, published or Hugging Face's, or a run",
        free=True,
    )
    init_classes: str = option(
        "",
        "classes of the head of --init, from which ours are picked by name: a file of names, one a line or a JSON "
        "list; or a JSON list with the row of each of our classes",
        free=True,
    )
    init_merged: str = option(
        "", "JSON object {old name: new name} of classes that --init-classes has under the new name only", free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_classes and not self.init:
            raise ValueError(f"init_classes '{self.init_classes}' names the classes of --init, which is empty")
        if self.init_merged and not self.init_classes:
            raise ValueError(f"init_merged '{self.init_merged}' goes with --init-classes, which is empty")

    @property
    def continues(self) -> bool:
        """Whether the run continues from a checkpoint of its own."""
        return self.resume and bool(self.output) and bool(list_checkpoints(Path(self.output)))

    @property
    def source(self) -> Path | None:
        """Where the weights come from: the run's own last checkpoint if it continues, else that of `init`; or None."""
        if self.continues:
            return list_checkpoints(Path(self.output))[-1]
        return last_checkpoint(Path(self.init)) if self.init else None

    def start(self, model: VideoClassifier, class_names: Sequence[str]) -> str:
        """Load the weights that `init` names, unless the run continues from a checkpoint.

        The head has the rows of our classes: those of `init_classes`, or else those that the names beside the weights
        give. It is new if these are names of other classes, or if nothing names classes and their numbers differ.

        Args:
            model: a new model.
            class_names: names of its classes.

        Returns:
            A message for the user: the source of the weights, what is new, and which rows the head got. Empty without
            `init`.

        Raises:
            FileNotFoundError: a file or folder does not exist.
            ValueError: the weights cannot be read, or do not fit; a class is not among those of `init_classes`, or
                these are not the classes of the weights.
        """
        if not self.init:
            return ""
        if self.continues:
            return f"--resume continues from a checkpoint: --init {self.init} is not read"
        source = self.source
        assert source is not None
        rows, how = self._rows(source, tuple(class_names))
        note = init_weights(model, source, strict=not self.init_partial, rows=rows)
        return "\n".join(filter(None, [note or f"all weights are from {source}", how]))

    def _rows(
        self, source: Path, class_names: tuple[str, ...]
    ) -> tuple[Sequence[int] | Callable[[int], Sequence[int]] | None, str]:
        """The rows of the source's head that are our classes, as `init_weights` takes them; and a line about them."""
        if self.init_classes:
            pick = partial(self._picked, class_names)
            return pick, f"the head has the rows of our {len(class_names)} classes, by {self.init_classes}"
        theirs = class_names_beside(source)
        if theirs == class_names or not _have_names(theirs) or not _have_names(class_names):
            return None, ""
        if set(class_names) <= set(theirs):
            return head_rows(theirs, class_names), f"the head has the rows of our {len(class_names)} classes, by name"
        return (), "the head is new: the weights are of other classes"

    def _picked(self, class_names: tuple[str, ...], count: int) -> list[int]:
        """The rows of a head of `count` classes by `init_classes`."""
        return pick_classes(count, class_names, self.init_classes, self.init_merged)[0]


def with_classes(
    classifier: Classifier, class_names: Sequence[str], init_classes: str = "", init_merged: str = ""
) -> Classifier:
    """A classifier of some of its classes, in another order: its head has their rows.

    Args:
        classifier: as it was read.
        class_names: the wanted classes; empty for its own, or, if it has no names, its numbers.
        init_classes: the option of that name: a file that tells the classes of its head, or the wanted rows; "" for the
            names beside its weights.
        init_merged: the option of that name.

    Returns:
        The classifier, with `class_names`.

    Raises:
        ValueError: the head has no row of a class, or not as many rows as there are names; the message says which.
    """
    count, theirs = classifier.num_classes, classifier.class_names or ()
    if init_classes:
        rows, names = pick_classes(count, class_names, init_classes, init_merged)
        return classifier.with_rows(rows, names)
    if class_names and _have_names(theirs):
        return classifier.with_rows(head_rows(theirs, class_names), class_names)
    if class_names and len(class_names) != count:
        raise ValueError(
            f"there are {len(class_names)} class names, and the head has {count} classes without names: name them with "
            "init_classes"
        )
    return replace(classifier, class_names=tuple(class_names) or theirs or _numbers(count))


def pick_classes(
    count: int, class_names: Sequence[str], init_classes: str, init_merged: str = ""
) -> tuple[list[int], tuple[str, ...]]:
    """The rows of a head that are the wanted classes.

    Args:
        count: rows of the head.
        class_names: the wanted classes; empty for all that `init_classes` lists.
        init_classes: file of the names of the head's classes, or of the row of each wanted class.
        init_merged: file of new names of classes that `init_classes` has renamed; "" for none.

    Returns:
        A row for each class, and the names of the classes.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file has another form, or does not fit the head or the wanted classes; the message names it.
    """
    if lists_rows(init_classes):
        rows = read_head_rows(init_classes)
        names = tuple(class_names) or _numbers(len(rows))
        if max(rows) >= count or len(names) != len(rows):
            raise ValueError(
                f"{init_classes} lists {len(rows)} rows from {min(rows)} to {max(rows)}: expected {len(names)} rows, "
                f"one for each class, in [0, {count}), as the head has {count} rows"
            )
        return rows, names
    theirs = read_classes(init_classes)
    if len(theirs) != count:
        raise ValueError(f"{init_classes} names {len(theirs)} classes, the head of the weights has {count}")
    names = tuple(class_names) or theirs
    if not _have_names(names):
        raise ValueError(
            f"{init_classes} names the classes of the head, and ours have numbers only: name them in classes"
        )
    return head_rows(theirs, names, read_merged_names(init_merged) if init_merged else None), names


def last_checkpoint(path: Path) -> Path:
    """The last checkpoint of a run, or the path itself if it is no run."""
    return (list_checkpoints(path) or [path])[-1]


def _have_names(class_names: Sequence[str]) -> bool:
    """Whether classes are known by more than their numbers, which mean something else in each list."""
    return tuple(class_names) != _numbers(len(class_names))


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
