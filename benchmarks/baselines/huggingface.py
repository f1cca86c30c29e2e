"""Hugging Face's VideoMAEForPreTraining with the weights of one of our models. It has no decoder mask (VideoMAE V1)."""

from torch import nn

from videomae_fast.interop import to_huggingface
from videomae_fast.interop.huggingface.config import huggingface_config
from videomae_fast.models import VideoMAEForPretraining


def make_huggingface(ours: VideoMAEForPretraining) -> nn.Module:
    """A VideoMAEForPreTraining of the same sizes and weights; needs a square image and transformers >= 5.18."""
    import transformers

    sizes = huggingface_config(ours.config)
    model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**sizes))
    model.decoder.norm.eps = ours.config.norm_eps  # Hugging Face leaves PyTorch's default here
    model.load_state_dict(to_huggingface(ours.state_dict(), "qv"))
    return model
