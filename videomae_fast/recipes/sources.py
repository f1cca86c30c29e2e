"""The sources of videos of a command, such as those to train and those to evaluate on: one root, one list format."""

from collections.abc import Sequence

from ..data import Mixture, read_mixture
from ..data.sources.instructions import has_conversations
from ..data.sources.lists import is_list_file


def read_source(
    source: str,
    sources: Sequence[str],
    root: str,
    list_format: str = "auto",
    labelled: bool = False,
    captioned: bool = False,
    conversations: bool = False,
) -> Mixture:
    """Read one of the sources of a command. `root` and `list_format` are of each that is a list file.

    Args:
        source: the one to read.
        sources: all of them, also `source`; "" for one that is not given.
        root: as in `read_mixture`; "" for none.
        list_format: as in `read_mixture`.
        labelled: as in `read_mixture`.
        captioned: as in `read_mixture`.
        conversations: as in `read_mixture`.

    Returns:
        The videos.

    Raises:
        FileNotFoundError: as `read_mixture`.
        ValueError: as `read_mixture`: `root` or `list_format` is given, and none of the sources is a list file.
    """
    is_list = [is_list_file(each) or (conversations and has_conversations(each)) for each in (source, *sources)]
    if not is_list[0] and any(is_list):
        root, list_format = "", "auto"
    return read_mixture(source, root or None, list_format, labelled, captioned, conversations)
