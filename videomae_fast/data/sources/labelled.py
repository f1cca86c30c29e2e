"""One numbering of the classes of all videos of a mixture."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..._text import printable
from .mixture import Mixture

_MOST_CLASSES = 2**20
_SHOWN = 5  # names in a message


def number_classes(mixture: Mixture, class_names: Sequence[str] = (), allow_empty: bool = False) -> Mixture:
    """Number the classes of all videos, in all sources alike.

    Args:
        mixture: the videos, each with a class, as `read_mixture(..., labelled=True)` returns them.
        class_names: the name of each class, as `read_classes` reads them, or as the training videos have them where
            others are evaluated. Class numbers in a list are numbers of these names. If empty: where videos have class
            names, the classes are all names in sorted order (also those of class files of the mixture); where they have
            numbers, the classes are the numbers up to the largest, and their names are these numbers.
        allow_empty: whether there may be classes without videos, as in an evaluation on some classes.

    Returns:
        The same videos in the same order, with labels in [0, C). `class_names` of the mixture has the C names.

    Raises:
        ValueError: a video has no class, or a class that is none of `class_names`; a class has no video, and
            `allow_empty` is False; some sources have names and others have numbers without a class file; there is one
            class only; or a class number is 2**20 or more.
    """
    names = tuple(class_names) or _names(mixture)
    sources = [replace(source, annotations=source.annotations.numbered_by(names)) for source in mixture.sources]
    numbered = Mixture(sources)
    if not allow_empty:
        _check_no_empty_class(numbered)
    return numbered


def _names(mixture: Mixture) -> tuple[str, ...]:
    of_sources = [source.annotations.class_names for source in mixture.sources]
    if all(of_sources):
        names = tuple(sorted(set().union(*of_sources)))
    elif any(of_sources):
        number = next(number for number, names in enumerate(of_sources) if not names)
        raise ValueError(
            f"source {number + 1} of the mixture has class numbers where others have names: give it a file of class "
            'names ("classes")'
        )
    else:
        labels = mixture.labels
        if (largest := int(labels.max())) >= _MOST_CLASSES:
            video = printable(mixture[int(labels.argmax())].name)
            raise ValueError(f"{video} has class number {largest}: expected less than {_MOST_CLASSES}")
        names = tuple(map(str, range(largest + 1)))
    if len(names) == 1:
        raise ValueError(f"all {len(mixture)} videos have the class '{printable(names[0])}': a classifier needs two")
    return names


def _check_no_empty_class(mixture: Mixture) -> None:
    names = mixture.class_names
    empty = np.flatnonzero(np.bincount(mixture.labels, minlength=len(names)) == 0)
    if len(empty):
        shown = ", ".join(f"'{printable(names[number])}' ({number})" for number in empty[:_SHOWN])
        raise ValueError(
            f"{len(empty)} of {len(names)} classes have no video: {shown}{', ...' if len(empty) > _SHOWN else ''}. Add "
            "videos, number the classes without gaps, leave the names out of the class file, or allow empty classes"
        )
