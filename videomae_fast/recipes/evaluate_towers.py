"""What evaluations of two towers share: the towers that options name, the views of videos, and their features."""

from typing import Any

import numpy as np
import torch

from ..data import ViewDataset
from ..engine.parallel import make_accelerator
from ..models.attention import activate_flash_attention
from ..models.dual_encoder import unit_rows
from .evaluate import EvaluateConfig
from .evaluate_options import DefaultViews
from .two_towers import TowerFeatures, TwoTowers, read_two_towers
from .views import VideoFeatures, video_features


def towers_of(config: EvaluateConfig) -> tuple[TwoTowers, Any]:
    """The two towers that an evaluation names, on the device of its processes, and their `accelerate.Accelerator`.

    Args:
        config: the evaluation.

    Returns:
        Both.

    Raises:
        FileNotFoundError: as `read_two_towers`.
        ValueError: `data` or `init` is empty; or as `read_two_towers`.
        ImportError: as `read_two_towers`.
    """
    views, options = config.views, config.evaluation
    for name, value, wanted in (
        ("data", views.data, "a list of videos with captions, or with labels for zeroshot"),
        ("init", options.init, "a run of contrast"),
    ):
        if not value:
            raise ValueError(f"{name} is empty: name {wanted}")
    accelerator = make_accelerator(options.precision)
    if options.attention == "sdpa":
        activate_flash_attention(accelerator.device)
    given = {"num_frames": views.num_frames, "image_size": views.image_size, "text_model": options.text_model}
    changes = {name: value for name, value in given.items() if value}
    layers = {"attention": options.attention, "elementwise": options.elementwise}
    towers = read_two_towers(options.init, **layers, **changes)
    towers.model.to(accelerator.device)
    return towers, accelerator


def default_views(towers: TwoTowers) -> DefaultViews:
    """One view of each video, of the frames that training shows; of "strided", which draws frames, "dense" ones."""
    data = towers.config.data
    sampling = "dense" if data.sampling == "strided" else data.sampling
    return DefaultViews(sampling, data.frame_stride, segments=1, crops=1, fps=data.fps)


def features_of_videos(
    towers: TwoTowers, dataset: ViewDataset, config: EvaluateConfig, accelerator: Any
) -> VideoFeatures:
    """The features of videos by their tower: normalised means over the views. The caller chooses autocast.

    Args:
        towers: as `towers_of` returns them.
        dataset: the views.
        config: the evaluation.
        accelerator: as `towers_of` returns it.

    Returns:
        The features (n, E), of length 1, the same in every process.

    Raises:
        ValueError: features are NaN or infinite.
        ChildProcessError: as `video_features`.
        TimeoutError: as `video_features`.
    """
    model, batch_size, workers = towers.model, config.evaluation.batch_size, config.views.workers
    found = video_features(TowerFeatures(model), dataset, model.embed_dim, batch_size, workers, accelerator)
    if bad := int((~np.isfinite(found.values).all(1)).sum()):
        raise ValueError(
            f"the features of {bad} videos are NaN or infinite: the weights are damaged, or too large for precision "
            f"{config.evaluation.precision}"
        )
    return found._replace(values=unit_rows(torch.from_numpy(found.values)).numpy())
