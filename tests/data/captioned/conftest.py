"""A data set of captioned videos and images, and a tokenizer that needs no file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data import files
from videomae_fast.data import CaptionedVideos, Mixture, VideoSource, read_captions


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 25 frames per second and images; `list.tsv` names all of them."""
    folder = tmp_path_factory.mktemp("captioned")
    lines = ["path\tstart\tend\tcaption\tcaption"]
    for number, frames in enumerate((60, 100, 60, 7, 200)):
        files.write_video(folder / f"{number}.mp4", num_frames=frames, height=32, width=64)
        lines.append(f"{number}.mp4\t\t\tvideo {number}\tfilm {number}")
    for number, suffix in enumerate(("jpg", "png", "webp")):
        pixels = np.full((40, 50, 3), 60 * number + 50, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
        lines.append(f"{number}.{suffix}\t\t\timage {number}\t")
    (folder / "list.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def captioned(captioned_folder: Path) -> Mixture:
    """All entries of `captioned_folder`."""
    videos = read_captions(captioned_folder / "list.tsv")
    assert isinstance(videos, CaptionedVideos)
    return Mixture([VideoSource(videos)])


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A fast tokenizer of a few words, with [CLS] and [SEP] around each text."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "video", "film", "image", *map(str, range(10))]
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    model.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")
