"""Zero-shot classification by two towers: the class whose prompts are most similar to a video."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .._json import read_text
from .._text import printable
from ..data import number_classes, read_classes, read_mixture
from ..models.dual_encoder import unit_rows
from .evaluate import EvaluateConfig, Result, none_read
from .evaluate_towers import default_views, features_of_videos, towers_of
from .scores import Evaluation
from .two_towers import encode_texts

PLACE = "{}"  # of the class in a template
TEMPLATES = ("{}", "a video of {}", "a clip that shows {}", "someone is busy with {}", "this is an example of {}")


def read_templates(path: str) -> tuple[str, ...]:
    """Read templates of prompts.

    Args:
        path: a text file in UTF-8 with one template a line, each with {} once, where the class goes. White space at the
            ends of a line and blank lines do not count.

    Returns:
        The templates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no regular file or no UTF-8, or has no template, or a line has no {} or several; the
            message has the file and the line.
    """
    try:
        text = read_text(Path(path)).removeprefix("\ufeff")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file of templates at {printable(path)}") from None
    except ValueError as error:
        raise ValueError(f"{printable(path)} is no file of templates: {error}") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if line.count(PLACE) != 1:
            raise ValueError(f"{printable(path)}:{number}: expected {{}} once, got '{printable(line.strip())}'")
        found.append(line.strip())
    if not found:
        raise ValueError(f"{printable(path)} has no template: expected lines such as 'a video of {{}}'")
    return tuple(found)


def prompts_of(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """The prompts of classes: those of the first class, of the second, and so on; underscores in names become spaces.

    Args:
        class_names: C names.
        templates: each with {} once.

    Returns:
        C times as many prompts as templates.
    """
    return [template.replace(PLACE, name.replace("_", " ")) for name in class_names for template in templates]


@torch.no_grad()
def evaluate_zeroshot(config: EvaluateConfig) -> Result:
    """Classify videos by the names of classes, of which no head was trained.

        c_k = normalise(mean over templates of the features of the prompt of class k)    score[k] = v·c_k

    Features of prompts have length 1, and v is the normalised mean of the features of a video's views. Scores are these
    similarities, in [-1, 1].

    Args:
        config: for example `EvaluateConfig.from_options(task="zeroshot", data="val.csv", init="runs/pairs")`.

    Returns:
        The scores of all videos, the same in every process.

    Raises:
        FileNotFoundError: the weights, a list or the templates do not exist.
        ValueError: `init` is no run of `contrast`, classes have no names or do not fit the labels, views cannot be cut,
            no video can be read, or features are not finite.
        ImportError: transformers is missing.
        ChildProcessError: a data-loading process died.

    References:
        CLIP, arXiv 2103.00020, section 3.1.4: prompts, and their mean as the feature of a class.
    """
    views, options = config.views, config.evaluation
    templates = read_templates(options.templates) if options.templates else TEMPLATES
    towers, accelerator = towers_of(config)
    videos = read_mixture(views.data, views.root or None, views.list_format, labelled=True)
    videos = number_classes(videos, read_classes(views.classes) if views.classes else (), allow_empty=True)
    names = videos.class_names
    if not names or names == tuple(map(str, range(len(names)))):
        raise ValueError("classes of the videos have numbers only, and zeroshot goes by names: name them in classes")
    size = towers.model.vision_encoder.config.image_size
    dataset = views.views(videos, towers.config.data.num_frames, size, default_views(towers))
    with accelerator.autocast():
        video = features_of_videos(towers, dataset, config, accelerator)
        texts = encode_texts(towers, prompts_of(names, templates), accelerator).cpu()
    if not video.read.any():
        raise ValueError(none_read(len(videos), video.missing))
    classes = unit_rows(texts.view(len(names), len(templates), -1).mean(1)).numpy()
    scores = (video.values.astype(np.float64) @ classes.T.astype(np.float64)).astype(np.float32)
    evaluation = Evaluation(scores, videos.labels, video.read, names)
    paths = [videos[number].name for number in range(len(videos))]
    return Result(evaluation, paths, video.missing, accelerator.is_main_process)
