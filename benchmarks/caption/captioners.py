"""Captioners of the shipped settings, `examples/configs/caption/`, and a language model for each."""

from pathlib import Path
from typing import Any

from videomae_fast.recipes.caption_config import CaptionConfig

FOLDER = Path(__file__).parents[2] / "examples" / "configs" / "caption"
LANGUAGE_MODEL_OF = {
    "videochat2_1": "Mistral-7B",
    "videochat2_2": "Mistral-7B",
    "videochat2_3": "Mistral-7B",
    "longvivit_l_256": "SmolLM2-360M",
}
TINY: dict[str, Any] = {
    **{"model": "nano", "num_frames": 4, "image_size": 32, "patch_size": 16, "tubelet_size": 2, "max_tokens": 16},
    **{"connector": "mean", "inject": "prefix", "queries": 0, "extra_queries": 0, "connector_depth": 0},
}


def captioner_config(settings: str, folder: str, **changes: Any) -> CaptionConfig:
    """The shipped settings of a name, in bf16.

    Args:
        settings: name of a file of FOLDER, without .toml.
        folder: of the language model.
        **changes: other options.
    """
    options = CaptionConfig.read_options(FOLDER / f"{settings}.toml")
    return CaptionConfig.from_options(**(options | {"language_model": folder, "precision": "bf16"} | changes))
