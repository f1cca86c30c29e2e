"""Indexes of long lists: a list is parsed once, and its columns are kept in the user's cache and mapped from then on.

An index is a folder of columns (columns.py), named by the list and how it is read. It is built anew when the list, or a
tar file that the list names, has another size or time of change, and when the index is damaged or of another version.
"""

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..._files import cache_folder
from ..._lock import wait_for_lock
from ..._text import printable
from .annotations import Annotations
from .columns import ColumnsError, open_columns, write_index, writing

LEAST_BYTES = 16 << 20  # of a list that has an index; a shorter one is read in about a second
_Videos = TypeVar("_Videos", bound=Annotations)
LEFT = 86_400  # seconds after which a folder that was not completed is of a process that is gone, on any machine
State = list[int] | None  # of a file, as `file_state` returns it; None: there is none
Shards = dict[str, State]  # by the path in the list
Build = Callable[[Path | None, Shards], _Videos]


def file_state(path: str | os.PathLike) -> State:
    """What tells that a file is another one.

    Args:
        path: of the file.

    Returns:
        Its bytes, the nanoseconds at which its contents and its entry in the file system changed (a copy can be given
        the first of another file, and not the second), and its number there; None if it cannot be found.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_long(source: Path, shards: Iterable[Path]) -> bool:
    """Whether a list has an index.

    Args:
        source: the list.
        shards: the tar files that its first lines name, whose headers are read with the list.

    Returns:
        Whether they have `LEAST_BYTES` in all.
    """
    return sum(state[0] for state in map(file_state, (source, *shards)) if state) >= LEAST_BYTES


def indexed(
    source: Path, root: Path, options: Mapping[str, Any], kind: type[_Videos], build: Build[_Videos]
) -> _Videos:
    """Open the index of a list, or build it. One process builds it, others wait.

    Building says one line, and so does a cache that cannot be written; the columns are then in memory.

    Args:
        source: the list.
        root: folder that relative paths are joined to.
        options: how the list is read; values that JSON can hold.
        kind: type of the data set.
        build: reads the list. It is called with an empty folder for the columns, or None for memory, and a dictionary,
            in which it notes the state of each tar file before it reads that.

    Returns:
        The data set.

    Raises:
        Exception: as `build`.
    """
    key = {"list": os.path.abspath(source), "root": os.path.abspath(root), "type": kind.__name__, **options}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    key["version"] = sys.modules[__package__.partition(".")[0]].__version__  # another may read lists in another way
    found, reason, path = None, "", None
    with ExitStack() as stack:
        try:
            with writing():
                path = cache_folder("lists") / name
            found, _ = _open(path, key, source, root, kind)
            if found is not None:
                return found
            with writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = wait_for_lock(path.with_suffix(".lock"), lambda: _say(source, "another process builds it"))
                alone = stack.enter_context(lock)
            found, reason = _open(path, key, source, root, kind)  # another process may have built it
            if found is not None:
                return found
            _build(path, key, source, build, reason, alone)
            found, reason = _open(path, key, source, root, kind)
        except ColumnsError as error:
            reason = str(error)
            if path is not None:  # where locks do not hold, another process may have been first
                found, _ = _open(path, key, source, root, kind)
    if found is None:
        found = build(None, {})
        _say(source, f"{len(found)} videos, held in the memory of each process: {reason}")
    return found


def _open(
    path: Path, key: Mapping[str, Any], source: Path, root: Path, kind: type[_Videos]
) -> tuple[_Videos | None, str]:
    """The data set; or None, and the reason unless there is no index."""
    try:
        columns = open_columns(path)
        facts = columns.facts
        if facts["key"] != key:
            return None, f"it is of version {facts['key'].get('version')}"
        if facts["list"] != file_state(source):
            return None, "the list changed"
        for name, state in facts["shards"].items():
            if file_state(root / name) != state:
                return None, f"{printable(name)} changed"
        columns.verify()
    except FileNotFoundError:
        return None, ""
    except ColumnsError as error:
        return None, str(error)
    return kind.from_columns(columns, root), ""


def _build(path: Path, key: Mapping[str, Any], source: Path, build: Build[_Videos], reason: str, alone: bool) -> None:
    begun = time.perf_counter()
    if alone:
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed; a lock may be of one node
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT:
                    shutil.rmtree(left, ignore_errors=True)
    with writing():
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        partial.mkdir()  # with the rights of any folder, unlike tempfile's: a group may share its cache
    try:
        shards: Shards = {}
        state = file_state(source)  # before it is read: a change while it is read is seen later
        made = build(partial, shards)
        write_index(partial, made.columns, {**made.facts(), "key": dict(key), "list": state, "shards": shards})
        videos = len(made)
        del made  # some systems rename no folder with mapped files
        with writing():
            _replace(path, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    again = f", again because {reason}" if reason else ""
    _say(source, f"{videos} videos, built in {time.perf_counter() - begun:.1f} s{again}")


def _replace(path: Path, new: Path) -> None:
    """Put a folder in the place of another. Who has mapped the old files keeps them."""
    old = new.with_name(f"{new.name}.old")
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _say(source: Path, text: str) -> None:
    print(f"index of {printable(source)}: {text}", file=sys.stderr, flush=True)
