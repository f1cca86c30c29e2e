"""Inside interop imports go one way, and what belongs to one library knows nothing of another's."""

from pathlib import Path

import pytest

from tests.packaging.test_imports import imported, module_name

ROOT = Path(__file__).parents[2]
ROOM = "videomae_fast.interop."
FILES = [path for path in sorted((ROOT / "videomae_fast/interop").rglob("*.py")) if path.name != "__init__.py"]
LEVELS = (  # from the lowest up; modules of one level do not import each other
    {"checkpoint", "seam", "report"},
    {"settings", "official.weights", "official.model", "timm"}
    | {"huggingface.weights", "huggingface.model", "huggingface.config", "huggingface.card"},
    {"labels", "lora", "huggingface.folder", "huggingface.loading", "huggingface.vision", "fusion"}
    | {"internvideo2", "huggingface.image", "huggingface.text", "huggingface.gguf"},
    {"classifier", "huggingface.language_model"},
    {"pretrained_encoder", "video_tower"},
    {"conversion", "initialization", "features", "teachers", "audio_tower", "captioner"},
    {"video_text"},
)
LEVEL = {module: number for number, modules in enumerate(LEVELS) for module in modules}


def inside(name: str) -> str:
    """The module of this room that an imported name is, or is in; "" if it is elsewhere."""
    own = [module for module in LEVEL if f"{name}.".startswith(f"{ROOM}{module}.")]
    return own[0] if own else ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_go_down(file: Path) -> None:
    own = module_name(file, "videomae_fast").removeprefix(ROOM)
    for name in filter(None, map(inside, imported(file, "videomae_fast"))):
        assert LEVEL[name] < LEVEL[own], f"{own} must not import {name}"


def test_levels_are_the_modules() -> None:
    assert {module_name(file, "videomae_fast").removeprefix(ROOM) for file in FILES} == set(LEVEL)
    found = {inside(name) for file in FILES for name in imported(file, "videomae_fast")}
    assert {"checkpoint", "seam", "official.weights", "huggingface.folder", "huggingface.model"} <= found
