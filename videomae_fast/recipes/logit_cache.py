"""Teacher logits on disk: a file for each batch, which a later run reads if it makes the same batch.

Clips and mixtures are functions of (seed, sample numbers), so equal settings make equal batches. A file is read only if
the settings, the teacher's weights and the decoded pixels are those it was written for.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_write, disk_errors, writable_folder
from .._json import parse_json, read_text
from .._lock import lock_output
from .._optional import require
from .._text import printable
from ..data import ClipBatch
from ..interop.checkpoint import write_safetensors

KEY = "key.json"  # all that decides the logits, to be read by people too
_AGAIN = "delete it, and the teacher makes it again"


class LogitCache:
    """The logits of the batches of runs that agree in `key`.

    <folder>/key.json holds the key, and <folder>/000000001024.safetensors the logits of the batch whose first clip has
    this sample number. A file is whole or absent, so a run that was killed continues.

    Args:
        folder: of the files; `open` makes it.
        key: all that decides the logits of a batch of given decoded pixels; values that JSON can hold.
        classes: C.
    """

    def __init__(self, folder: Path, key: dict[str, Any], classes: int) -> None:
        self.folder, self.key, self.classes = folder, key, classes
        self.digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        self._pending: tuple[Path, Tensor, dict[str, str], Any] | None = None
        self._lock = ExitStack()

    def open(self, first_samples: Iterable[int], rank: int = 0) -> int:
        """Check that the folder is of this key, and count the batches without a file. If some have none, prepare it
        for writing: make the folder and its key, and keep other runs from writing.

        Args:
            first_samples: the first sample number of each batch to come.
            rank: of this process; the first one writes the key and keeps the lock.

        Returns:
            The number of batches whose logits are not there.

        Raises:
            ValueError: the folder holds the logits of another key, whose differences the message tells; key.json is
                damaged; the folder cannot be written; or another run writes to it.
        """
        self._check_key()
        found = {entry.name for entry in os.scandir(self.folder)} if self.folder.is_dir() else set()
        missing = sum(self._path(first).name not in found for first in first_samples)
        if missing:
            writable_folder(self.folder)
            if rank == 0:
                self._lock.enter_context(lock_output(self.folder))
                self._check_key()
                with disk_errors(self.folder / KEY), atomic_write(self.folder / KEY) as partial:
                    partial.write_text(json.dumps(self.key, indent=1) + "\n", encoding="utf-8")
        return missing

    def has(self, batch: ClipBatch) -> bool:
        """Whether there is a file for a batch."""
        return self._path_of(batch).is_file()

    def read(self, batch: ClipBatch) -> Tensor:
        """Read the logits of a batch.

        Args:
            batch: on the host, as the loader makes it.

        Returns:
            (B, C) float16, on the host.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: the file is damaged, is of another key, or of other pixels; the message names it.
        """
        path = self._path_of(batch)
        try:
            with require("safetensors").safe_open(path, "pt") as file:
                facts, logits = file.metadata() or {}, file.get_tensor("logits")
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged header can fail in safetensors and in torch
            reason = printable((str(error).splitlines() or [type(error).__name__])[0])
            raise ValueError(f"teacher logits {path} are damaged: {reason}; {_AGAIN}") from error
        if facts.get("key") != self.digest:
            raise ValueError(
                f"teacher logits {path} were made with other settings, data or teacher than {self.folder / KEY} says: "
                f"{_AGAIN}"
            )
        if facts.get("logits") != _checksum([logits]):
            raise ValueError(f"teacher logits {path} are damaged: their checksum is another; {_AGAIN}")
        if facts.get("clips") != _checksum([batch.sample, batch.clips.frames, batch.clips.geometry]):
            raise ValueError(
                f"teacher logits {path} are of other pixels than this run decodes: a video has changed, could not be "
                f"read, or is decoded by another version of the reader; {_AGAIN}"
            )
        if logits.dtype != torch.float16 or logits.shape != (len(batch.sample), self.classes):
            raise ValueError(
                f"teacher logits {path} must be float16 {(len(batch.sample), self.classes)}, got {logits.dtype} "
                f"{tuple(logits.shape)}; {_AGAIN}"
            )
        return logits

    def write(self, batch: ClipBatch, logits: Tensor) -> None:
        """Write the logits of a batch. From a GPU they are copied while it works on, and written by the next call.

        Args:
            batch: on the host, as the loader makes it.
            logits: (B, C) float16.

        Raises:
            OSError: the disk is full or broken. Files that were complete stay so.
            ValueError: logits are NaN or infinite.
        """
        self.flush()
        facts = {"key": self.digest, "clips": _checksum([batch.sample, batch.clips.frames, batch.clips.geometry])}
        copied = None
        if logits.is_cuda:
            host = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            logits, copied = host.copy_(logits, non_blocking=True), torch.cuda.Event()
            copied.record()
        self._pending = self._path_of(batch), logits, facts, copied
        if copied is None:
            self.flush()

    def flush(self) -> None:
        """Write what the last `write` left.

        Raises:
            OSError: as `write`.
            ValueError: as `write`.
        """
        if self._pending is None:
            return
        (path, logits, facts, copied), self._pending = self._pending, None
        if copied is not None:
            copied.synchronize()
        if not logits.isfinite().all():
            raise ValueError(
                f"the teacher's logits for {path.name} are NaN or infinite: its weights are damaged, or too large for "
                "the precision"
            )
        write_safetensors({"logits": logits}, path, facts | {"logits": _checksum([logits])})

    def close(self) -> None:
        """Write what is left, and let other runs write.

        Raises:
            OSError: as `write`.
            ValueError: as `write`.
        """
        with self._lock:
            self.flush()

    def _path_of(self, batch: ClipBatch) -> Path:
        return self._path(int(batch.sample[0]))

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:012d}.safetensors"

    def _check_key(self) -> None:
        path = self.folder / KEY
        if not path.is_file():
            return
        try:
            found = parse_json(read_text(path))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: {error}. Delete the folder, or name another for the logits"
            ) from error
        if found == self.key:
            return
        known = found if isinstance(found, dict) else {}
        differing = [
            f"{name}: was {known.get(name)!r}, now {self.key.get(name)!r}"
            for name in (*self.key, *(name for name in known if name not in self.key))
            if known.get(name) != self.key.get(name)
        ]
        raise ValueError(
            f"the teacher logits in {self.folder} are of another run: {printable('; '.join(differing))}. Name another "
            "folder, or run with these settings"
        )


def _checksum(tensors: Iterable[Tensor]) -> str:
    """CRC-32 of the bytes of tensors on the host; see engine/manifest.py for the choice."""
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(tensor.contiguous().numpy().data, checksum)
    return f"{checksum:08x}"
