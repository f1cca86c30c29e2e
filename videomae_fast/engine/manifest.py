"""The files of a checkpoint, with sizes and checksums: a damaged file is found and named before anything is loaded.

The checksum is CRC-32: it finds every damage by disks and networks but for one in 2³², and takes zlib about 1 to 7
GB/s, where SHA-256 takes 0.4 to 2 GB/s. Neither protects from a stranger, who can write new checksums.
"""

import os
import zlib
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22  # bytes


def make_manifest(folder: Path, mode: int) -> dict[str, list[int]]:
    """List the files below a folder, push them to the disk, and give them one mode.

    Args:
        folder: a complete folder.
        mode: the mode of every file; safetensors 0.8 makes files that only their owner can read.

    Returns:
        {path below the folder, with "/": [bytes, CRC-32]}, sorted.

    Raises:
        OSError: a file cannot be read, or the disk cannot hold it.
    """
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        path.chmod(mode)
        manifest[path.relative_to(folder).as_posix()] = [path.stat().st_size, checksum(path, flush=True)]
    return manifest


def find_damage(folder: Path, manifest: Any) -> str:
    """Compare the files below a folder with their manifest.

    Args:
        folder: the folder.
        manifest: what `make_manifest` returned; read from a file, so it may be anything.

    Returns:
        The first damaged file and what is wrong with it; "" if there is none.
    """
    if not isinstance(manifest, dict) or not manifest:
        return "state.json: it does not list the files"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name, facts in manifest.items():
        if not (isinstance(facts, list) and len(facts) == 2 and all(type(fact) is int for fact in facts)):
            return f"state.json: no size and checksum for {name!r}"
        if name not in found:
            return f"{name}: it is missing, and state.json lists it"
        size = found[name].stat().st_size
        if size != facts[0]:
            return f"{name}: it has {size} bytes, by state.json {facts[0]}"
        try:
            computed = checksum(found[name])
        except OSError as error:  # of a disk that lost it
            return f"{name}: it cannot be read: {error.strerror}"
        if computed != facts[1]:
            return f"{name}: its checksum is not the one in state.json"
    return ""


def checksum(path: Path, flush: bool = False) -> int:
    """The CRC-32 of a file.

    Args:
        path: the file.
        flush: whether to push it to the disk first.

    Returns:
        The checksum, in [0, 2³²).

    Raises:
        OSError: the file cannot be read.
    """
    found = 0
    with path.open("r+b" if flush else "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found
