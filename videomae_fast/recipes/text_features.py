"""Features of captions by a frozen text tower: computed once, kept in files, and read instead of running the tower.

A frozen tower in evaluation mode gives a caption the same features in every step. So a run of many epochs computes them
once, and later runs with the same tower and captions read them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import atomic_write, disk_errors, partial_path, writable_folder
from .._json import parse_json, read_text
from .._lock import lock_output
from .._text import printable
from ..data import Mixture
from ..data.captioned.batch import digest_of_caption

KEY, IDS, FEATURES = "key.json", "caption_ids.npy", "features.npy"
BATCH = 256  # captions that the tower sees at a time

Encode = Callable[[Sequence[str]], Tensor]  # captions → (B, E) features


class TextFeatures:
    """The features of all captions of a data set.

    <folder>/key.json holds all that decides the features, caption_ids.npy the digests of the captions in ascending
    order, and features.npy a float32 row for each. key.json is written last: without it the files are not whole. The
    features are not held in memory; the operating system reads the pages that are asked for.

    Args:
        folder: of the files; `prepare` makes them.
        key: what decides the features beside the captions: weights, tokenizer, tokens of a caption, precision.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, key

    def prepare(
        self,
        mixtures: Sequence[Mixture],
        encode: Encode,
        dim: int,
        say: Callable[[str], None],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Open the files, or make them: each process computes a part, and the first one puts the key to them.

        Args:
            mixtures: all captioned entries.
            encode: the text tower.
            dim: E.
            say: prints a line.
            rank: of this process.
            world_size: processes of the run, all of which call this.

        Raises:
            ValueError: the folder holds the features of other weights, captions or settings, which the message names;
                it is damaged, or cannot be written; or another run writes to it.
            OSError: the disk is full or broken.
        """
        ids, first = _distinct(mixtures)
        self.key = self.key | {"captions": len(ids), "captions_digest": hashlib.sha256(ids.tobytes()).hexdigest()[:16]}
        found = self._is_complete()
        _wait(world_size)  # before the first process writes
        if not found:
            say(f"computing the features of {len(ids)} captions: {printable(self.folder)}")
            with ExitStack() as stack:
                if rank == 0:
                    writable_folder(self.folder)
                    stack.enter_context(lock_output(self.folder))
                self._make(mixtures, encode, ids, first, dim, rank, world_size)
        self._open(dim)

    def rows(self, caption_id: Tensor) -> Tensor:
        """The features of captions.

        Args:
            caption_id: (B,) int64 on the host, `CaptionedBatch.caption_id`.

        Returns:
            (B, E) float32 on the host.

        Raises:
            ValueError: a caption is none of the data set.
        """
        wanted = caption_id.numpy()
        places = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
        if (self._ids[places] != wanted).any():
            raise ValueError(f"{self.folder} has no features of a caption of this batch: the captions have changed")
        return torch.from_numpy(self._features[places])

    @property
    def some_id(self) -> Tensor:
        """() int64, the id of a caption that has features."""
        return torch.tensor(self._ids[0])

    def _is_complete(self) -> bool:
        path = self.folder / KEY
        if not path.is_file():
            return False
        try:
            found = parse_json(read_text(path))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}. Delete the folder, or name another") from error
        known = found if isinstance(found, dict) else {}
        differing = [
            f"{name}: was {known.get(name)!r}, now {value!r}"
            for name, value in self.key.items()
            if known.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the text features in {self.folder} are of another run: {printable('; '.join(differing))}. Name "
                "another folder with text_features, or delete this one"
            )
        return True

    def _make(
        self,
        mixtures: Sequence[Mixture],
        encode: Encode,
        ids: np.ndarray,
        first: np.ndarray,
        dim: int,
        rank: int,
        world_size: int,
    ) -> None:
        path = self.folder / FEATURES
        partial = partial_path(path)
        if rank == 0:
            with disk_errors(path):
                np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(len(ids), dim)).flush()
        _wait(world_size)
        rows = np.lib.format.open_memmap(partial, mode="r+")
        place_of = np.full(int(first.max()) + 1, -1, dtype=np.int64)  # of the first entry with each caption
        place_of[first] = np.arange(len(ids))
        own = (
            (int(place_of[number]), text)
            for number, text in enumerate(islice(_texts(mixtures), len(place_of)))
            if place_of[number] >= 0 and place_of[number] % world_size == rank
        )
        while some := list(islice(own, BATCH)):
            features = encode([text for _, text in some]).float().cpu()
            if not features.isfinite().all():
                raise ValueError("the text tower's features are NaN or infinite: its weights are damaged")
            rows[[place for place, _ in some]] = features.numpy()
        with disk_errors(path):
            rows.flush()
        del rows
        _wait(world_size)
        if rank == 0:
            with disk_errors(path):
                partial.replace(path)
                with atomic_write(self.folder / IDS) as part, open(part, "wb") as file:
                    np.save(file, ids)
                with atomic_write(self.folder / KEY) as part:
                    part.write_text(json.dumps(self.key, indent=1) + "\n", encoding="utf-8")
        _wait(world_size)

    def _open(self, dim: int) -> None:
        try:
            self._ids = np.load(self.folder / IDS, allow_pickle=False)
            self._features = np.load(self.folder / FEATURES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"the text features in {self.folder} are damaged: {error}; delete the folder") from error
        if self._ids.shape != (self.key["captions"],) or self._features.shape != (self.key["captions"], dim):
            raise ValueError(
                f"the text features in {self.folder} are damaged: {self._features.shape} features of {self._ids.shape} "
                f"captions, expected {(self.key['captions'], dim)}; delete the folder"
            )


def _texts(mixtures: Sequence[Mixture]) -> Iterator[str]:
    for mixture in mixtures:
        for index in range(len(mixture)):
            yield from mixture.captioned(index).captions


def _distinct(mixtures: Sequence[Mixture]) -> tuple[np.ndarray, np.ndarray]:
    """The digests of all captions, ascending, and the number of the first caption with each."""
    ids = np.fromiter((digest_of_caption(text) for text in _texts(mixtures)), dtype=np.int64)
    return np.unique(ids, return_index=True)


def _wait(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
