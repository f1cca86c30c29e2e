"""One vector for every quarter of a second of a long video, and the moments that look most like a given one.

Run: python examples/features_of_a_long_video.py VIDEO WEIGHTS SECOND
"""

import sys

import numpy as np
import torch

from videomae_fast.interop import read_feature_model
from videomae_fast.recipes.features import Features, extract

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(video: str, weights: str, second: float, **clip: int) -> Features:
    """Slide a window over the video, decoding each frame once; print the five most similar moments."""
    model = read_feature_model(weights, **clip).to(DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
        found = extract(model, video, window_stride=8)
    rate = found.fps or 25.0
    centres = (found.starts + model.config.num_frames / 2) / rate
    rows = found.values - found.values.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12
    similarity = rows @ rows[np.abs(centres - second).argmin()]
    for row in similarity.argsort()[::-1][:5]:
        print(f"{centres[row]:7.2f} s: {similarity[row]:.3f}")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
