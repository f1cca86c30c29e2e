"""Hugging Face's VideoMAEForPreTraining with the weights of one of our models. It has no decoder mask (VideoMAE V1)."""

from torch import nn

from videomae_fast.interop import to_huggingface
from videomae_fast.models import VideoMAEForPretraining


def make_huggingface(ours: VideoMAEForPretraining) -> nn.Module:
    """A VideoMAEForPreTraining of the same sizes and weights; needs a square image and transformers >= 5.18."""
    import transformers

    config = ours.config
    height, width = config.image_size
    if height != width:
        raise ValueError(f"Hugging Face's VideoMAE needs square images, got {config.image_size}")
    model = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(
            image_size=height,
            patch_size=config.patch_size,
            num_frames=config.num_frames,
            tubelet_size=config.tubelet_size,
            hidden_size=config.encoder_dim,
            num_hidden_layers=config.encoder_depth,
            num_attention_heads=config.encoder_heads,
            intermediate_size=int(config.encoder_dim * config.mlp_ratio),
            decoder_hidden_size=config.decoder_dim,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=int(config.decoder_dim * config.mlp_ratio),
            layer_norm_eps=config.norm_eps,
            use_mean_pooling=False,
            norm_pix_loss=True,
        )
    )
    model.decoder.norm.eps = config.norm_eps  # Hugging Face leaves PyTorch's default here
    model.load_state_dict(to_huggingface(ours.state_dict(), "qv"))
    return model
