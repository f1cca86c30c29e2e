"""Draw docs/images/gallery.jpg: the first row of `videomae-fast gallery --demo`, at the size of published clips.

Run: python docs/gallery_row.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videomae_fast.cli import main as videomae_fast

TARGET = Path(__file__).parent / "images" / "gallery.jpg"
BETWEEN_ROWS = 12  # pixels: rows of the gallery are at least this far apart, captions within a row are closer


def first_row(gallery: Any) -> Any:
    """The top of a gallery picture, down to the first white band that is as high as those between its rows."""
    is_blank = (np.asarray(gallery.convert("L")) == 255).all(axis=1)
    y = int(np.argmin(is_blank))  # below the margin
    while not is_blank[y : y + BETWEEN_ROWS].all():
        y += 1
    return gallery.crop((0, 0, gallery.width, y + BETWEEN_ROWS // 2))


def main(target: Path = TARGET) -> None:
    """Draw the gallery with the library's own command, and keep its first row."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "gallery.png")
        if videomae_fast(["gallery", "--demo", "--image-size", "224", "--output", str(path)]):
            raise RuntimeError("videomae-fast gallery failed; its error stands above")
        with Image.open(path) as gallery:
            first_row(gallery).save(target, quality=80, optimize=True)


if __name__ == "__main__":
    main()
