"""Fixtures of the tests that train: videos, and the size "tiny"."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.recipes import aligned, paired, taught, tiny
from tests.recipes.brightness import write_brightness
from videomae_fast.models import get_config
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.finetune import finetune


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("training") / "videos")


@pytest.fixture(scope="session")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled videos; see `write_brightness`."""
    return write_brightness(tmp_path_factory.mktemp("brightness"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of four classes, 12 videos to train on."""
    return tiny.write_labelled(tmp_path_factory.mktemp("labelled") / "videos", 3)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other videos of the same classes, 8 in all."""
    return tiny.write_labelled(tmp_path_factory.mktemp("held_out") / "videos", 2, first_seed=100)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 13 videos, each of one of three colours, its class."""
    return taught.write_colors(tmp_path_factory.mktemp("colors") / "train", 13)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of captioned videos and images; see `write_pairs`."""
    return paired.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small text model and its tokenizer; see `write_text_model`."""
    return paired.write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def two_towers_run(pairs: Path, text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned a little."""
    folder = tmp_path_factory.mktemp("two_towers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        contrast(paired.settings(pairs, text_model, folder, epochs=6, ema_decay=0.5))
    return folder


@pytest.fixture
def teacher(colors: Path, tmp_path: Path) -> Path:
    """A folder of weights that tell the colours apart."""
    return taught.make_teacher(tmp_path / "teacher", colors)


@pytest.fixture(scope="session")
def aligners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Teachers of an alignment, by what the option that names each begins with: "video", "image", "distil"."""
    folder = tmp_path_factory.mktemp("aligners")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        video = aligned.make_video_teacher(folder / "video")
    image, distil = folder / "image.safetensors", folder / "distil.safetensors"
    return {"video": video, "image": aligned.make_image_teacher(image), "distil": aligned.make_distil_teacher(distil)}


@pytest.fixture(scope="session")
def classifier_run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run that learned a little, with an average of its weights. Its clips have 48 x 48 pixels, so that
    the frames of the videos need no resize in evaluation; its positions are those of the published code."""
    folder = tmp_path_factory.mktemp("classifier")
    options = {"image_size": 48, "batch_size": 4, "epochs": 3, "lr": 0.3, "init_scale": 1.0, "ema_decay": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        finetune(tiny.finetuning(labelled, folder, positions="sinusoid", **options | tiny.PLAIN))
    return folder


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the size "tiny" to the published ones."""
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", aligned.STUDENT)
    assert get_config("tiny") == tiny.TINY


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate remembers the precision of a process's first run, of another test's too, and refuses another."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """As in the processes that the tests start: sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
