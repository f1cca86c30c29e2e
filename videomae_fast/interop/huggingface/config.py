"""The contents of transformers' configuration files: the sizes of a model, and how frames become its clips."""

from typing import Any

from ...models.config import VideoMAEConfig


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
        "use_mean_pooling": False,
        "decoder_hidden_size": config.decoder_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": int(config.decoder_dim * config.mlp_ratio),
        "norm_pix_loss": True,
    }


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
