import pytest
import torch

from benchmarks.baselines.published import PublishedVideoMAE

TINY = dict(image_size=(16, 16), num_frames=4, patch_size=8, encoder_depth=2, encoder_heads=2, decoder_heads=2)
MODEL = dict(
    image_size=(32, 32),
    num_frames=4,
    patch_size=8,
    encoder_dim=24,
    encoder_depth=3,
    encoder_heads=3,
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=2,
)


@pytest.fixture
def tiny():
    """tiny(dim=16, depth=1, seed=0): the published model at other widths and decoder depths."""

    def build(dim=16, depth=1, seed=0):
        torch.manual_seed(seed)
        return PublishedVideoMAE(**TINY, encoder_dim=dim, decoder_dim=dim // 2, decoder_depth=depth)

    return build


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = PublishedVideoMAE(**MODEL)
    with torch.no_grad():  # nothing may be zero or one, or a swap of two tensors would not show
        for parameter in model.parameters():
            if parameter.dim() != 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()
