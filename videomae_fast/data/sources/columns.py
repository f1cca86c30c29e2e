"""Columns of numbers, one a row, and bytes: in memory, or in the .npy files of a folder, which are mapped and not read.

A folder of columns also has `index.json`: the length and the checksum of each file, and facts of whoever wrote it. A
mapped file belongs to the system's page cache: all processes of a machine share it, and it takes none of their memory.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

INDEX = "index.json"
_FORMAT = 1  # of the folder; a change of what the columns mean changes it, too
CHUNK = 1024  # rows that are Python objects at a time
_BUFFER = 1 << 20  # bytes
_T = TypeVar("_T")


class ColumnsError(Exception):
    """A folder of columns that cannot be used, or cannot be written; the message is the reason."""


class Column(NamedTuple):
    """Numbers, one a row. Equal numbers in all rows are held once.

    Attributes:
        values: (length,), or (1,) if all are equal.
        length: rows.
    """

    values: np.ndarray
    length: int

    @property
    def array(self) -> np.ndarray:
        """(length,), a read-only view."""
        return np.broadcast_to(self.values, self.length) if len(self.values) == 1 else self.values


class Columns:
    """Columns by name.

    Pickled, columns in memory are their numbers; those in a folder are the path of the folder.

    Args:
        columns: the columns.
        facts: values that JSON can hold, of whoever made the columns.
        folder: folder of their files; None: they are in memory.
        checksums: of the files by column, and that of the index by "".
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        facts: Mapping[str, Any],
        folder: Path | None = None,
        checksums: Mapping[str, int] | None = None,
    ) -> None:
        self._columns, self.facts, self.folder = dict(columns), dict(facts), folder
        self._checksums = dict(checksums or {})
        self._arrays = {name: column.array for name, column in self._columns.items()}

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """The array (length,) of a column; it is read-only."""
        return self._arrays[name]

    def verify(self) -> None:
        """Compare the checksums of the files, which reads them once.

        Raises:
            ColumnsError: a file is damaged.
        """
        for name in self._columns if self.folder else ():
            assert self.folder is not None
            try:
                same = _crc32(_file(self.folder, name)) == self._checksums[name]
            except OSError as error:
                raise ColumnsError(f"{name}.npy cannot be read: {error}") from error
            if not same:
                raise ColumnsError(f"{name}.npy is damaged")

    def __getstate__(self) -> dict[str, Any]:
        if self.folder is None:
            return {"columns": self._columns, "facts": self.facts}
        return {"folder": self.folder, "checksum": self._checksums[""]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "columns" in state:
            self.__init__(state["columns"], state["facts"])  # type: ignore[misc]
            return
        try:
            found = open_columns(state["folder"])
        except FileNotFoundError:
            raise ColumnsError(f"{state['folder']} was deleted while it was in use: start again") from None
        if found._checksums[""] != state["checksum"]:
            raise ColumnsError(f"{state['folder']} was built anew while it was in use: start again")
        self.__dict__ = found.__dict__


class ColumnsWriter:
    """Writes columns, chunk by chunk.

    Args:
        folder: an empty folder for their files; None: they stay in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writers: dict[str, _Numbers | _Bytes] = {}

    def numbers(self, name: str, dtype: type = np.int64) -> "_Numbers":
        """Begin a column of numbers.

        Args:
            name: of the column.
            dtype: of the numbers.

        Returns:
            Its writer; `extend` takes more numbers.
        """
        return self._add(name, _Numbers(_Array(self._path(name), dtype)))

    def bytes(self, name: str) -> "_Bytes":
        """Begin a column of bytes, which is uint8.

        Args:
            name: of the column.

        Returns:
            Its writer; `extend` takes more bytes, and `length` is their number so far.
        """
        return self._add(name, _Bytes(_Array(self._path(name), np.uint8)))

    def finish(self) -> dict[str, Column]:
        """End all columns.

        Returns:
            The columns by name. If there is a folder, its files are complete, but there is no index in it.
        """
        return {name: writer.finish() for name, writer in self._writers.items()}

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else _file(self._folder, name)

    def _add(self, name: str, writer: _T) -> _T:
        self._writers[name] = writer  # type: ignore[assignment]
        return writer


class _Array:
    """An array that grows: in memory, or in a .npy file."""

    def __init__(self, path: Path | None, dtype: type) -> None:
        self._path, self._dtype, self._rows = path, np.dtype(dtype), 0
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        if path is not None:
            with writing():
                self._file = open(path, "wb", buffering=_BUFFER)  # noqa: SIM115  # `finish` closes it
                self._write_header()

    def extend(self, values: np.ndarray | bytes) -> None:
        self._rows += len(values)
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values, self._dtype).data
        if self._file is None:
            self._buffer += data
        else:
            with writing():
                self._file.write(data)

    def finish(self) -> np.ndarray:
        if self._file is None or self._path is None:
            array = np.frombuffer(self._buffer, self._dtype)
            array.flags.writeable = False
            return array
        with writing(), self._file:
            self._file.seek(0)
            self._write_header()  # as long as the one it replaces: numpy leaves room for digits
        with writing():
            return _map(self._path)

    def _write_header(self) -> None:
        assert self._file is not None
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._rows,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _Numbers:
    """A column of numbers; as long as all are equal, none is written."""

    def __init__(self, array: _Array) -> None:
        self._array, self._first, self._length, self._equal = array, np.empty(0), 0, True

    def extend(self, values: np.ndarray) -> None:
        if len(values) == 0:
            return
        if self._length == 0:
            self._first = values[:1]
        if self._equal and not (values == self._first).all():
            self._equal = False
            for begin in range(0, self._length, CHUNK):
                self._array.extend(np.repeat(self._first, min(CHUNK, self._length - begin)))
        if not self._equal:
            self._array.extend(values)
        self._length += len(values)

    def finish(self) -> Column:
        if self._equal:
            self._array.extend(self._first)
        return Column(self._array.finish(), self._length)


class _Bytes:
    """A column of bytes."""

    def __init__(self, array: _Array) -> None:
        self._array, self.length = array, 0

    def extend(self, data: bytes) -> None:
        self._array.extend(data)
        self.length += len(data)

    def finish(self) -> Column:
        return Column(self._array.finish(), self.length)


@contextmanager
def writing() -> Iterator[None]:
    """Turn an error of the disk into a ColumnsError.

    Raises:
        ColumnsError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ColumnsError(f"it cannot be written: {error}") from error


def write_index(folder: Path, columns: Columns, facts: Mapping[str, Any]) -> None:
    """Complete a folder that `ColumnsWriter` wrote, so that `open_columns` opens it.

    Args:
        folder: as `ColumnsWriter` was given.
        columns: of the files in the folder.
        facts: values that JSON can hold, which come back with the columns, for those that `columns` has.

    Raises:
        ColumnsError: the disk is full or fails.
    """
    with writing():
        files = {
            name: {
                "rows": len(column.values),
                "length": column.length,
                "dtype": column.values.dtype.str,
                "crc32": _crc32(_file(folder, name)),
            }
            for name, column in columns._columns.items()
        }
        content = {"format": _FORMAT, "columns": files, "facts": dict(facts)}
        (folder / INDEX).write_text(json.dumps({"crc32": _crc32_of(content), "content": content}), encoding="utf-8")


def open_columns(folder: Path) -> Columns:
    """Open a folder of columns. Checksums of the files are not compared; `Columns.verify` does.

    Args:
        folder: a folder that `write_index` completed.

    Returns:
        The columns, mapped.

    Raises:
        FileNotFoundError: there is no such folder.
        ColumnsError: the folder is of another version, or a file is missing, no array or of another length.
    """
    try:
        text = (folder / INDEX).read_text(encoding="utf-8")
    except FileNotFoundError:
        if folder.exists():
            raise ColumnsError(f"{INDEX} is missing") from None
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ColumnsError(f"{INDEX} cannot be read: {error}") from error
    try:
        given = json.loads(text)
        checksum, content = given["crc32"], given["content"]
        damaged = checksum != _crc32_of(content)
    except (ValueError, TypeError, KeyError):
        damaged = True
    if damaged:
        raise ColumnsError(f"{INDEX} is damaged")
    if content["format"] != _FORMAT:
        raise ColumnsError(f"it has format {content['format']}, and this version reads {_FORMAT}")
    columns = {name: _open_column(_file(folder, name), about) for name, about in content["columns"].items()}
    checksums = {name: about["crc32"] for name, about in content["columns"].items()}
    return Columns(columns, content["facts"], folder, checksums | {"": checksum})


def _open_column(path: Path, about: Mapping[str, Any]) -> Column:
    try:
        values = _map(path)
    except FileNotFoundError:
        raise ColumnsError(f"{path.name} is missing") from None
    except (OSError, ValueError, EOFError) as error:  # numpy's errors of a file that is cut or is no array
        raise ColumnsError(f"{path.name} is damaged: {error}") from error
    if (values.shape, values.dtype.str) != ((about["rows"],), about["dtype"]):
        raise ColumnsError(f"{path.name} is damaged: it holds {values.dtype.str} {values.shape}")
    return Column(values, about["length"])


def chunks(rows: Iterable[_T]) -> Iterator[list[_T]]:
    """Divide rows.

    Args:
        rows: taken one by one.

    Yields:
        Up to `CHUNK` rows, at least one.
    """
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def spans(ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where parts of various lengths lie that are stored one after the other.

    Args:
        ends: (n,) the end of each part.
        rows: (m,) numbers of parts.

    Returns:
        The begins and the ends (m,) of these parts.
    """
    return np.where(rows > 0, ends[rows - 1], 0), ends[rows]


def pieces(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> bytes:
    """Join parts of a column of bytes.

    Args:
        data: (n,) uint8.
        begins: (m,) the first byte of each part.
        ends: (m,) the byte after each part.

    Returns:
        The parts, one after the other.
    """
    if len(begins) == 0:
        return b""
    if (begins[1:] == ends[:-1]).all():
        return data[begins[0] : ends[-1]].tobytes()
    view = data.data
    return b"".join([view[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)])


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _map(path: Path) -> np.ndarray:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(mapped)  # an element of a plain array is taken faster


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_BUFFER):
            checksum = zlib.crc32(data, checksum)
    return checksum


def _crc32_of(content: object) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
