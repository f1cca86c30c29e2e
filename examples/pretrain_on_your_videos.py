"""Pre-train from Python on a folder of videos or an annotation file, and load the weights it leaves behind.

Run: python examples/pretrain_on_your_videos.py FOLDER_OR_LIST OUTPUT
"""

import sys

from videomae_fast import VideoMAEForPretraining
from videomae_fast.interop import load_published, load_weights
from videomae_fast.training import PretrainConfig, pretrain


def main(data: str, output: str, **changes: object) -> VideoMAEForPretraining:
    """Run the published recipe with your changes; returns the trained model."""
    config = PretrainConfig(data=data, output=output, **changes)  # type: ignore[arg-type]
    result = pretrain(config)
    model = VideoMAEForPretraining(config.model_config())
    load_weights(model, load_published(result.checkpoint / "model.safetensors"))
    print(f"{result.step} steps, weights in {result.checkpoint}")
    return model


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
