"""The folder of a converted model, as its readers read it: transformers, the hub, people who copy from the card."""

import re

import pytest
import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, get_config
from videomae_fast.interop.huggingface import folder
from videomae_fast.interop.huggingface.card import MASKS, UNKNOWN_MASKS, model_card
from videomae_fast.interop.huggingface.config import huggingface_config
from videomae_fast.interop.huggingface.folder import write_folder

TINY = VideoMAEConfig(24, 2, 3, 16, 2, decoder_depth=1, patch_size=8, num_frames=4, image_size=(48, 48))
RUN = dict(zip(MASKS, ("tube", 0.9, "running_cell", 0.5), strict=True))


@pytest.fixture
def tiny_model():
    torch.manual_seed(0)
    return VideoMAEForPretraining(TINY)


@pytest.fixture
def written(tiny_model, tmp_path):
    write_folder(tiny_model.state_dict(), TINY, tmp_path / "below" / "tiny", "runs/step-7/model.safetensors", RUN)
    return tmp_path / "below" / "tiny"


def test_files(written):
    assert {path.name for path in written.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("name", ["AutoImageProcessor", "VideoMAEImageProcessor"])
def test_preprocessor(written, name):
    """Clips of the model's size from frames of any, normalised as the model was trained; not by transformers' 0.5."""
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name).from_pretrained(written)
    frames = torch.randint(0, 256, (4, 60, 90, 3), dtype=torch.uint8)
    pixels = processor(list(frames.numpy()), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 4, 3, 48, 48) and processor.num_frames == 4
    grey = processor(list(torch.full_like(frames, 51).numpy()), return_tensors="pt")["pixel_values"]
    expected = (0.2 - torch.tensor(TINY.pixel_mean)) / torch.tensor(TINY.pixel_std)
    torch.testing.assert_close(grey.mean((0, 1, 3, 4)), expected, rtol=1e-4, atol=1e-4)


def test_code_of_the_card(written, tiny_model, monkeypatch):
    """Both blocks run beside the folder, and load the weights."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(written.parent)
    theirs, ours = re.findall(r"^```python\n(.*?)^```$", (written / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    spaces: list[dict[str, object]] = [{}, {}]
    exec(theirs, spaces[0])
    exec(ours, spaces[1])
    assert isinstance(spaces[0]["model"], transformers.VideoMAEForPreTraining)
    assert type(spaces[0]["processor"]).__name__.startswith("VideoMAEImageProcessor")
    model = spaces[1]["model"]
    assert model.config == TINY
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_front_matter(written):
    """As the hub reads it. The license is left to whoever publishes the weights."""
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(written / "README.md").data.to_dict()
    assert data["library_name"] == "transformers" and "videomae" in data["tags"]
    assert "license" not in data and "# license: fill in" in (written / "README.md").read_text()


def test_card_says_what_is_known(written):
    text = (written / "README.md").read_text()
    count = sum(p.numel() for p in VideoMAEForPretraining(TINY).parameters())
    for part in (
        "converted from `runs/step-7/model.safetensors`",
        f"| parameters | {count:,} |",
        "4 frames of 48x48 pixels",
        "| 72: patches of 2 frames x 8 x 8 pixels".lstrip("| "),
        "(batch, 72)",
        "`tube` masks that hide 0.9",
        "`running_cell`, ratio 0.5",
    ):
        assert part in text
    card = model_card(get_config("base"), 1, "base", "c.pth", {"mask": "tube"})
    assert UNKNOWN_MASKS in card and "tube" not in card
    assert 'VideoMAEForPretraining(get_config("base", num_frames=16, image_size=(224, 224)))' in card
    assert "decoder's masks were `none`.\n" in model_card(TINY, 1, "", "", RUN | {"decoder_mask": "none"})


def test_whole_or_not_at_all(tiny_model, monkeypatch, tmp_path):
    def fail(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(folder, "write_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tiny_model.state_dict(), TINY, tmp_path / "tiny", "c.pth", {})
    assert not list(tmp_path.iterdir())


def test_square_clips_only():
    with pytest.raises(ValueError, match=r"needs square images, got \(224, 448\)"):
        huggingface_config(get_config("base", image_size=(224, 448)))
