"""The contents of transformers' configuration files: the sizes of a model, and how frames become its clips."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...models.config import CONFIGS, VideoMAEConfig
from ...models.constants import IMAGENET_MEAN, IMAGENET_STD
from ..checkpoint import CheckpointError


def huggingface_config(config: VideoMAEConfig) -> dict[str, Any]:
    """The arguments of transformers' `VideoMAEConfig` for the model that `config` describes.

    transformers fixes the epsilon of its decoder's LayerNorm at 1e-5, where the published model has `norm_eps`: set
    `model.decoder.norm.eps` for equal outputs.

    Args:
        config: a model for square clips.

    Returns:
        Keyword arguments of `transformers.VideoMAEConfig`; weights: `to_huggingface`.

    Raises:
        ValueError: the clips are not square.
    """
    return _encoder_config(config) | {
        "use_mean_pooling": False,
        "decoder_hidden_size": config.decoder_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": int(config.decoder_dim * config.mlp_ratio),
        "norm_pix_loss": True,
    }


def classifier_config(config: VideoMAEConfig, class_names: Sequence[str]) -> dict[str, Any]:
    """The arguments of transformers' `VideoMAEConfig` for a classifier.

    transformers fixes the epsilon of `fc_norm` at 1e-5, where the published model has `norm_eps`: set
    `model.fc_norm.eps` for equal outputs.

    Args:
        config: a model for square clips; its decoder fields are not used.
        class_names: a name for each class, all different.

    Returns:
        Keyword arguments of `transformers.VideoMAEConfig`.

    Raises:
        ValueError: the clips are not square.
    """
    return _encoder_config(config) | {
        "use_mean_pooling": True,
        "id2label": {str(number): name for number, name in enumerate(class_names)},
        "label2id": {name: number for number, name in enumerate(class_names)},
    }


def _encoder_config(config: VideoMAEConfig) -> dict[str, Any]:
    height, width = config.image_size
    if height != width:
        raise ValueError(f"Hugging Face's VideoMAE needs square images, got {config.image_size}")
    return {
        "image_size": height,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "num_frames": config.num_frames,
        "tubelet_size": config.tubelet_size,
        "hidden_size": config.encoder_dim,
        "num_hidden_layers": config.encoder_depth,
        "num_attention_heads": config.encoder_heads,
        "intermediate_size": int(config.encoder_dim * config.mlp_ratio),
        "layer_norm_eps": config.norm_eps,
    }


def check_huggingface_config(settings: Mapping[str, Any], width: int) -> None:
    """Make sure that a `config.json` of transformers describes a model that this library has.

    Args:
        settings: values of the file; what is not there is not checked.
        width: D of the weights beside it.

    Raises:
        CheckpointError: the activation is no exact GELU, or the number of heads is not that of the published size of
            this width. A converter of transformers gave ViT-S 16 heads, where its weights were trained with 6: weights
            do not show it, and the model computes something else.
    """
    activation = settings.get("hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(f"config.json has hidden_act {activation!r}; this library's models have 'gelu'")
    published = {config.encoder_dim: config.encoder_heads for config in CONFIGS.values()}
    heads = settings.get("num_attention_heads")
    if heads is not None and (type(heads) is not int or heads < 1 or width % heads):
        raise CheckpointError(
            f"config.json has num_attention_heads {heads!r}, which does not divide a width of {width}"
        )
    if heads is not None and heads != published.get(width, heads):
        raise CheckpointError(
            f"config.json has {heads} attention heads for a width of {width}; the published model of this width has "
            f"{published[width]}, which weights do not show: correct num_attention_heads if the weights come from there"
        )


def check_preprocessor(settings: Mapping[str, Any]) -> str:
    """What to warn of in a `preprocessor_config.json`.

    Args:
        settings: values of the file.

    Returns:
        "" if it normalises pixels by ImageNet's mean and standard deviation, as the published models are trained, or
        does not say; else a sentence.
    """
    expected = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    found = {name: settings[name] for name in expected if name in settings}
    if all(_close(found[name], expected[name]) for name in found):
        return ""
    return (
        f"preprocessor_config.json has image_mean {found.get('image_mean')} and image_std {found.get('image_std')}; "
        f"this library normalises by {IMAGENET_MEAN} and {IMAGENET_STD}, as the published models were trained: set "
        "pixel_mean and pixel_std of the configuration if these weights were trained otherwise"
    )


def _close(values: Any, expected: Sequence[float]) -> bool:
    try:
        return all(abs(value - wanted) < 1e-3 for value, wanted in zip(values, expected, strict=True))
    except (TypeError, ValueError):
        return False


def preprocessor_config(config: VideoMAEConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` for `VideoMAEImageProcessor`: frames to clips that the model takes.

    The short side is resized to the model's image size, the centre is cut out, and pixels are normalised with the
    model's mean and standard deviation. `num_frames` informs the reader: the processor takes any number of frames.

    Args:
        config: a model for square clips.

    Returns:
        The values of the file.
    """
    height, width = config.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "num_frames": config.num_frames,
        "do_resize": True,
        "size": {"shortest_edge": height},
        "resample": 2,  # PIL's bilinear
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
    }
