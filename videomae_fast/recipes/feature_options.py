"""Sections of options for the extraction of features: windows that slide over videos, the model, the files."""

from dataclasses import dataclass

from ..data.readers import DEFAULT_READER, MAX_DECODED_BYTES, READERS
from ..data.sources.captions import CAPTIONS_HELP
from ..data.sources.lists import DATA_HELP, FORMATS, LIST_FORMAT_HELP, ROOT_HELP
from ..data.windows import FITS, Windows
from ..engine.precision import PRECISIONS
from .config import Section, option

KINDS = ("mean", "tubelets", "tokens")


@dataclass(frozen=True)
class WindowOptions(Section):
    """The videos, and the windows that slide over them."""

    data: str = option("", DATA_HELP)
    root: str = option("", ROOT_HELP)
    list_format: str = option("auto", LIST_FORMAT_HELP, choices=FORMATS)
    num_frames: int = option(0, "frames of a window; 0: as the model was trained", least=0)
    frame_stride: int = option(1, "frames of the video from one frame of a window to the next", least=1)
    window_stride: int = option(
        4, "frames of the video from one window to the next (published: 4 on THUMOS14, 16 on FineAction)", least=1
    )
    keep_tail: bool = option(True, "a last window that ends with the video, and one of a short video (published: none)")
    image_size: int = option(0, "height and width of a window in pixels; 0: as the model was trained", least=0)
    fit: str = option(
        "crop",
        "how frames become square; crop: their centre; squash: the whole, out of shape, as published",
        choices=FITS,
    )
    reader: str = option(DEFAULT_READER, "video reader", choices=READERS)
    max_decoded_bytes: int = option(MAX_DECODED_BYTES, "most memory of a decoded frame (not with decord)", least=1)

    def windows(self, num_frames: int) -> Windows:
        """The windows, of `num_frames` frames."""
        return Windows(num_frames, self.frame_stride, self.window_stride, self.keep_tail)


@dataclass(frozen=True)
class FeatureOptions(Section):
    """The model, and its features."""

    init: str = option(
        "",
        "the model: weights of pre-training or a classifier, published or Hugging Face's, or a run of any kind",
    )
    captions: str = option(
        "",
        "captions instead of videos, for the text tower of a run of contrast, which writes captions.npy, (n, E), and "
        f"captions.json: {CAPTIONS_HELP}",
    )
    text_model: str = option(
        "", "folder of the text model of a run of contrast, if it is not where it was when the run began"
    )
    output: str = option("", "folder of the features: a .npy and a .json for each video; again, it continues")
    kind: str = option(
        "mean",
        "features of a window; mean: (D), of all tokens; tubelets: (T', D), means over space; tokens: (T', H', W', D)",
        choices=KINDS,
    )
    batch_size: int = option(8, "windows of a forward pass", least=1)
    precision: str = option("auto", "auto: bf16 on a GPU, fp32 on a CPU", choices=PRECISIONS)
