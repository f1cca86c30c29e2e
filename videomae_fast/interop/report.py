"""The report on what a model was initialised with."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn


def init_report(
    model: nn.Module,
    path: str | os.PathLike[str],
    left: Mapping[str, Sequence[str]],
    unused: Mapping[str, Sequence[str]],
) -> str:
    """What is not from the file, and what of the file is not used, or not as it was.

    Args:
        model: that has been initialised.
        path: of the file or folder.
        left: names of the model's tensors that are not from the file, by a phrase that says why.
        unused: names of other tensors, by a phrase that says what was done with them.

    Returns:
        A line of counts, and a line for each phrase that has names; "" if none has.
    """
    lines = [f"  {what}: {_by_block(names)}" for what, names in {**left, **unused}.items() if names]
    if not lines:
        return ""
    total = len(model.state_dict())
    loaded = total - sum(map(len, left.values()))
    return "\n".join([f"{loaded} of {total} tensors of {type(model).__name__} are from {str(path)!r}", *lines])


def _by_block(names: Sequence[str]) -> str:
    """All names; names that differ only in the number of a block are merged, with their count."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{name} ({count})" if "*" in name else name for name, count in counts.items())
