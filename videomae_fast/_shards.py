"""Weights in shards, as torch.distributed.checkpoint writes them: read in one process, without running code."""

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHARDS = "pytorch_model_fsdp_0"  # Accelerate's name of the folder in a checkpoint
_INDEX = ".metadata"
_KEY = "model."  # Accelerate saves {"model": weights}
_ALLOWED = {
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),  # Python 3.13
}


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint has weights in shards, which one file may hold as well.

    Args:
        folder: the checkpoint.
    """
    return (folder / SHARDS).is_dir()


def sharded_bytes(folder: Path) -> int:
    """Bytes of the weights of a sharded checkpoint.

    Args:
        folder: the checkpoint.
    """
    return sum(path.stat().st_size for path in (folder / SHARDS).iterdir())


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a sharded checkpoint to the CPU. Neither a GPU nor other processes are needed.

    The index of the shards is a pickle. It is read with the classes of such an index only, so that no code in it runs.

    Args:
        folder: the checkpoint.

    Returns:
        {name: tensor}, whole tensors under the model's own names.

    Raises:
        ValueError: the shards are damaged, or hold what are no weights; the message names the folder.
    """
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    shards = folder / SHARDS
    try:
        with (shards / _INDEX).open("rb") as file:
            index = _Index(file).load()
        entries: dict[str, Any] = index.state_dict_metadata
        others = [
            name
            for name, entry in entries.items()
            if not (name.startswith(_KEY) and type(entry) is TensorStorageMetadata)
        ]
        if others or not entries:
            raise ValueError(f"{others[0]!r} is no weight" if others else "there are no weights")
        for name, entry in entries.items():
            if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size):
                raise ValueError(f"{name!r} is not whole")
        for part in index.storage_data.values():
            if Path(part.relative_path).name != str(part.relative_path):
                raise ValueError(f"its index names a file elsewhere, {part.relative_path}")
        state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
        # `load` of torch 2.6 asks the process group, if there is one, instead of reading alone.
        _load_state_dict(state, FileSystemReader(shards), no_dist=True)
    except MemoryError:
        raise
    except (Exception, CheckpointException) as error:  # damage can show anywhere; the latter is no Exception
        raise ValueError(f"the shards in {shards} are damaged: {reason_of(error)}") from error
    return {name.removeprefix(_KEY): tensor for name, tensor in state.items()}


def reason_of(error: BaseException) -> str:
    """The first line of an error's message. That of torch.distributed.checkpoint is in the first process that failed.

    Args:
        error: any error.
    """
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which no index of weights does")
