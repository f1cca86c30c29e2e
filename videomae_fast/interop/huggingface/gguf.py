"""GGUF files, in which llama.cpp keeps a language model with its tokenizer: what transformers needs to read one."""

from pathlib import Path
from typing import Any

from ..._optional import require
from ..checkpoint import CheckpointError
from ..settings import PathLike

GGUF = ".gguf"
_BEGIN = b"GGUF"


def is_gguf(path: PathLike) -> bool:
    """Whether a path is a file that begins as GGUF files do, or one that is named so.

    Args:
        path: any path.

    Returns:
        False for folders, and for what does not exist.
    """
    place = Path(path)
    return place.is_file() and (place.suffix == GGUF or _begin(place) == _BEGIN)


def check_gguf(path: PathLike) -> None:
    """Make sure that a file begins as GGUF files do, and that the package that reads the rest is there.

    Args:
        path: the file.

    Raises:
        CheckpointError: it begins otherwise.
        ImportError: gguf is missing.
    """
    if (begin := _begin(Path(path))) != _BEGIN:
        raise CheckpointError(f"{str(path)!r} is no GGUF file: it begins with {begin!r}, not with {_BEGIN!r}")
    require("gguf")


def place_of(path: PathLike) -> dict[str, Any]:
    """How transformers is told where a model or a tokenizer is.

    Args:
        path: a folder, or a GGUF file.

    Returns:
        Arguments of `from_pretrained`.
    """
    if not is_gguf(path):
        return {"pretrained_model_name_or_path": path}
    place = Path(path).absolute()  # a relative name is looked for in the working directory first
    return {"pretrained_model_name_or_path": place.parent, "gguf_file": str(place)}


def gguf_damage(path: PathLike) -> str:
    """Why transformers cannot read a GGUF file, where the reason that it gives is one of numpy.

    Args:
        path: a folder or a file that transformers has failed to read.

    Returns:
        A phrase; "" if it is no GGUF file, or a whole one.
    """
    if is_gguf(path):
        try:
            require("gguf").GGUFReader(path)
        except Exception:  # as the unpacking of any damaged file
            return "; the file is cut off or damaged"
    return ""


def _begin(place: Path) -> bytes:
    with open(place, "rb") as file:
        return file.read(len(_BEGIN))
