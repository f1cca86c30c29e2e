"""The two towers of a run of contrastive pre-training, read again, and the features of texts and of videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._text import printable
from ..data.captioned import CaptionTokenizer
from ..engine.log import say
from ..interop import FeatureModel, init_video_text, read_feature_model
from ..interop.audio_tower import audio_config_beside
from ..interop.settings import settings_beside
from ..models.dual_encoder import VideoTextModel
from ..models.encoder import Clip
from .contrast import ContrastConfig
from .contrast_towers import build_towers
from .start import last_checkpoint

TEXTS = 256  # of a forward pass


class TwoTowers(NamedTuple):
    """Both towers of a run.

    Attributes:
        model: in float32 and in evaluation mode, on the CPU.
        tokenizer: makes the tokens of its text tower.
        config: of the run, with the changes.
    """

    model: VideoTextModel
    tokenizer: CaptionTokenizer
    config: ContrastConfig


def read_two_towers(path: str, **changes: Any) -> TwoTowers:
    """Read the towers of a run.

    Args:
        path: a run of `contrast`, one of its checkpoints, or a file of weights in one, such as model_ema.safetensors.
            The config.json beside the weights tells what the towers are; the file of BEATs is not needed again.
        **changes: options that differ from those of the run, such as `num_frames` and `text_model`.

    Returns:
        The towers.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: there is no config.json of such a run, the folder of its text model cannot be read, or the weights
            do not fit.
        ImportError: transformers is missing.
    """
    source = last_checkpoint(Path(path))
    if not source.exists():
        raise FileNotFoundError(f"init: {printable(source)} does not exist")
    file = (source if source.is_dir() else source.parent) / "config.json"
    if not file.is_file():
        raise ValueError(f"init must be a run of contrast, which has a config.json: there is no {printable(file)}")
    try:
        config = ContrastConfig.from_options(**ContrastConfig.read_options(file)).with_options(**changes)
    except ValueError as error:
        raise ValueError(f"init must be a run of contrast, got {printable(path)}: {error}") from error
    model, tokenizer = build_towers(config, lambda line: None, audio_config_beside(source))
    init_video_text(model, source)
    return TwoTowers(model.eval(), tokenizer, config)


def is_two_towers(source: Path) -> bool:
    """Whether a checkpoint, or the folder of a file of weights, is of a run of `contrast`: its config.json tells."""
    return "text_model" in settings_beside(source)


class TowerFeatures(nn.Module):
    """The video side of a dual encoder: its features, by the names that encoders have, and as its forward pass.

    Args:
        model: the dual encoder.

    Attributes:
        config: of the video tower.
        feature_dim: E.
    """

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = model
        self.config = model.vision_encoder.config
        self.feature_dim = model.embed_dim

    def features(self, clip: Clip) -> Tensor:
        """Features (B, E) of clips or of images, of length 1, as captions are compared with."""
        return self.model.project_video(self.model.encode_video(clip).pooled)

    def tokens(self, clip: Clip) -> Tensor:
        """The tower's rows (B, N, D) of the N tokens of clips, without that of a cls token."""
        return self.model.encode_video(clip).tokens[:, -self.config.num_tokens :]

    def forward(self, clip: Clip) -> Tensor:
        """`features`, in the place of logits."""
        return self.features(clip)


def read_video_model(
    source: Path, *, num_frames: int = 0, image_size: int = 0, text_model: str = ""
) -> FeatureModel | TowerFeatures:
    """Read a model for its features: one of any layout, or the video side of a run of `contrast`.

    Args:
        source: a checkpoint, or a file of weights.
        num_frames: frames of a clip; 0: as the model was trained.
        image_size: height and width in pixels; 0: likewise.
        text_model: where the text model of a run of `contrast` is now; "": where it was.

    Returns:
        The model, in float32 and in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: as `read_feature_model` and `read_two_towers`.
        ValueError: likewise; or `text_model` is given for another model.
        ImportError: as `read_two_towers`.
    """
    if not is_two_towers(source):
        if text_model:
            raise ValueError(f"text_model '{text_model}' is of a run of contrast, and {printable(source)} is none")
        return read_feature_model(source, num_frames=num_frames or None, image_size=image_size or None)
    given = {"num_frames": num_frames, "image_size": image_size, "text_model": text_model}
    return TowerFeatures(read_two_towers(str(source), **{name: value for name, value in given.items() if value}).model)


def encode_texts(towers: TwoTowers, texts: Sequence[str], accelerator: Any) -> Tensor:
    """The features of texts; all processes compute a part, and all get all.

    Args:
        towers: on the device of `accelerator`.
        texts: m texts.
        accelerator: `accelerate.Accelerator` of the processes; each calls this. The first one says how many texts are
            cut.

    Returns:
        (m, E) float32, of length 1, the same in every process, on the device.

    Raises:
        ValueError: features are NaN or infinite.
    """
    model, device = towers.model, accelerator.device
    values = torch.zeros(len(texts), model.embed_dim, device=device)
    cut = torch.zeros((), dtype=torch.int64, device=device)
    own = torch.arange(accelerator.process_index, len(texts), accelerator.num_processes)
    for some in own.split(TEXTS):
        if len(some):
            tokens, is_cut = towers.tokenizer([texts[number] for number in some])
            rows = model.project_text(model.encode_text(*tokens.to(device)).pooled)
            values.index_copy_(0, some.to(device), rows.float())
            cut += is_cut.sum().to(device)
    values, cut = (accelerator.reduce(each, reduction="sum") for each in (values, cut))
    if not values.isfinite().all():
        raise ValueError("features of texts are NaN or infinite: the weights are damaged, or too large for --precision")
    if cut and accelerator.is_main_process:
        say(f"{int(cut)} of {len(texts)} texts were cut to {towers.tokenizer.max_tokens} tokens, as in the run")
    return values
