"""Start a classifier from weights: the source of `--init`, the rows of its head, and how its positions are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .._json import parse_json, read_text
from ..data import read_classes
from ..engine.checkpoint import list_checkpoints
from ..interop import Classifier, head_rows, init_weights, read_merged_names
from ..models import VideoMAEForClassification
from .config import option
from .options import RunOptions

CLASSES_FILE = "classes.json"  # in a checkpoint: the names of the classes, in the order of the head's rows


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

    def start(self, model: VideoMAEForClassification, class_names: Sequence[str]) -> str:
        """Load the weights that `init` names, unless the run continues from a checkpoint.

        Args:
            model: a new model.
            class_names: names of its classes.

        Returns:
            A message for the user: the source of the weights, what is new, and which rows the head got. Empty without
            `init`.

        Raises:
            FileNotFoundError: a file or folder does not exist.
            ValueError: the weights cannot be read, or do not fit; a class is not among those of `init_classes`.
        """
        if not self.init:
            return ""
        if self.continues:
            return f"--resume continues from a checkpoint: --init {self.init} is not read"
        source = self.source
        assert source is not None
        rows, how = self._rows(source, class_names)
        fresh = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
        note = init_weights(model, source, strict=not self.init_partial, rows=rows)
        if how == _OTHER_CLASSES:
            model.head.load_state_dict(fresh)
        return "\n".join(filter(None, [note or f"all weights are from {source}", how]))

    def _rows(self, source: Path, class_names: Sequence[str]) -> tuple[list[int] | None, str]:
        """The rows of the source's head that are our classes, None for the head as it is; and a line about it."""
        if self.init_classes:
            if (rows := _listed_rows(Path(self.init_classes))) is not None:
                return rows, f"the head has the rows that {self.init_classes} lists"
            merged = read_merged_names(self.init_merged) if self.init_merged else None
            rows = head_rows(read_classes(self.init_classes), class_names, merged)
            return rows, f"the head has the rows of {len(rows)} classes, found by name in {self.init_classes}"
        theirs = class_names_beside(source)
        if not theirs or tuple(theirs) == tuple(class_names):
            return None, ""
        if set(class_names) <= set(theirs):
            return head_rows(theirs, class_names), "the head has the rows of classes with our names"
        return None, _OTHER_CLASSES


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
    count = classifier.num_classes
    rows = _listed_rows(Path(init_classes)) if init_classes else None
    if rows is not None:
        if max(rows) >= count or min(rows) < 0 or (class_names and len(class_names) != len(rows)):
            raise ValueError(
                f"{init_classes} lists {len(rows)} rows from {min(rows)} to {max(rows)}: expected rows in [0, {count})"
                + (f", one for each of {len(class_names)} classes" if class_names else "")
            )
        return classifier.with_rows(rows, class_names or tuple(map(str, range(len(rows)))))
    theirs = read_classes(init_classes) if init_classes else classifier.class_names or ()
    if init_classes and len(theirs) != count:
        raise ValueError(f"{init_classes} names {len(theirs)} classes, the head has {count}")
    if not theirs:
        if class_names and len(class_names) != count:
            raise ValueError(
                f"there are {len(class_names)} class names, and the head has {count} classes without names: name them "
                "with init_classes"
            )
        return replace(classifier, class_names=tuple(class_names) or tuple(map(str, range(count))))
    if not class_names or tuple(class_names) == tuple(theirs):
        return replace(classifier, class_names=tuple(theirs))
    merged = read_merged_names(init_merged) if init_merged else None
    return classifier.with_rows(head_rows(theirs, class_names, merged), class_names)


_OTHER_CLASSES = "the head is new: the weights are of other classes"


def last_checkpoint(path: Path) -> Path:
    """The last checkpoint of a run, or the path itself if it is no run."""
    return (list_checkpoints(path) or [path])[-1]


def _listed_rows(path: Path) -> list[int] | None:
    """The numbers in a JSON list; None if the file holds anything else."""
    if path.suffix.lower() != ".json":
        return None
    listed = parse_json(read_text(path))
    if isinstance(listed, list) and listed and all(type(row) is int for row in listed):
        return listed
    return None


def class_names_beside(source: Path) -> tuple[str, ...]:
    """The names of the classes of weights, as a checkpoint of ours tells them; empty if none does.

    Args:
        source: file of weights, or the folder that holds one.

    Returns:
        The names.

    Raises:
        ValueError: the file of names is damaged.
    """
    folder = source if source.is_dir() else source.parent
    return read_classes(folder / CLASSES_FILE) if (folder / CLASSES_FILE).is_file() else ()
