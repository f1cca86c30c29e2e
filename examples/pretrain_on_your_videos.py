"""Pre-train from Python on a folder of videos or a list file, and load the weights of the last checkpoint.

Run: python examples/pretrain_on_your_videos.py FOLDER_OR_LIST OUTPUT
"""

import sys
from typing import Any

from videomae_fast import VideoMAEForPretraining
from videomae_fast.interop import load_published, load_weights
from videomae_fast.recipes.pretrain import PretrainConfig, pretrain


def main(data: str, output: str, **options: Any) -> VideoMAEForPretraining:
    """Run the published ViT-B pre-training with your options; return the trained model."""
    config = PretrainConfig.from_options(data=data, output=output, **options)
    result = pretrain(config)
    model = VideoMAEForPretraining(config.model_config())
    load_weights(model, load_published(result.checkpoint / "model.safetensors"))
    print(f"{result.step} steps, weights in {result.checkpoint}")
    return model


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
