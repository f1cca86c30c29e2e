"""Sections of options that recipes share. Each section makes the object that it describes: data set, masks, model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from videomae_kernels import RESIZES

from ..data import DEFAULT_READER, ClipDataset, Mixture
from ..data.crops import CROP_BOXES
from ..data.readers import MAX_DECODED_BYTES, READERS
from ..data.sources.lists import DATA_HELP, EVERY_LIST, FORMATS, LIST_FORMAT_HELP, ROOT_HELP
from ..data.views import ViewDataset
from ..engine.checkpoint import list_checkpoints
from ..engine.log import tracker_names
from ..engine.precision import PRECISIONS
from ..interop import init_weights
from ..masks import DECODER_MASKS, ENCODER_MASKS, MaskPlan, make_masks
from ..models import CONFIGS, VideoMAEConfig
from ..models.attention import BACKENDS
from ..models.config import DECODER_CONTEXTS, RECOMPUTE, ClipConfig
from ..models.families import SIZES
from ..models.norms import IMPLEMENTATIONS
from .config import Section, option
from .sources import read_source


@dataclass(frozen=True)
class ClipOptions(Section):
    """Videos, and how clips are cut from them, whatever else is known about the videos."""

    data: str = option("", DATA_HELP, free=True)  # free: a checkpoint identifies its videos by `Mixture.fingerprint`
    root: str = option("", ROOT_HELP + EVERY_LIST, free=True)
    eval_data: str = option("", "videos to evaluate on, in one of the forms of --data", free=True)
    num_frames: int = option(16, "frames of a clip", least=1)
    image_size: int = option(224, "height and width of a clip in pixels", least=1)
    frame_stride: int = option(4, "frames of the video from one frame of a clip to the next", least=1)
    crop: str = option("multi-scale", "how crop boxes are drawn; multi-scale as published", choices=CROP_BOXES)
    hflip: bool = option(False, "flip half of the crops horizontally (published pre-training does not)")
    resize: str = option(
        "antialias",
        "how crops become clips; pillow: the published pixels, bit for bit",
        choices=RESIZES,
    )
    reader: str = option(DEFAULT_READER, "video reader", choices=READERS)
    short_side: int = option(0, "scale larger videos down to this side while decoding; 0: off", least=0)
    max_decoded_bytes: int = option(
        MAX_DECODED_BYTES,
        "most memory of a clip's decoded frames; a video that takes more is a bad one (not with decord)",
        least=1,
    )
    workers: int = option(8, "processes that decode videos; 0 decodes in the training process", least=0, free=True)
    max_bad_share: float = option(0.2, "stop if more than this share of the videos cannot be read", least=0, free=True)

    def sources(self) -> tuple[str, ...]:
        """All that names videos; "" for what is not given."""
        return self.data, self.eval_data

    def _clips(self, seed: int) -> dict[str, Any]:
        return {
            "num_frames": self.num_frames,
            "frame_stride": self.frame_stride,
            "size": (self.image_size, self.image_size),
            "crop": self.crop,
            "resize": self.resize,
            "reader": self.reader,
            "short_side": self.short_side,
            "max_decoded_bytes": self.max_decoded_bytes,
            "seed": seed,
        }


@dataclass(frozen=True)
class DataOptions(ClipOptions):
    """The videos, and the clips cut from them."""

    list_format: str = option("auto", LIST_FORMAT_HELP + EVERY_LIST, choices=FORMATS, free=True)
    crops_per_video: int = option(4, "crops cut from each decoded clip (repeated augmentation)", least=1)

    def read(self, source: str, labelled: bool = False) -> Mixture:
        """Read one of `sources`.

        Args:
            source: `data`, for example.
            labelled: as in `read_mixture`.

        Returns:
            The videos.

        Raises:
            FileNotFoundError: as `read_source`.
            ValueError: as `read_source`.
        """
        return read_source(source, self.sources(), self.root, self.list_format, labelled)

    def dataset(self, seed: int) -> ClipDataset:
        """Make the data set of training clips.

        Args:
            seed: seed of the clips, crops and flips.

        Returns:
            The data set.

        Raises:
            ValueError: `data` is empty, or options do not fit together; see `read_mixture` and `ClipDataset`.
        """
        if not self.data:
            raise ValueError("data is empty: name an annotation file or a folder of videos")
        mixture = self.read(self.data)
        return ClipDataset(mixture, crops_per_video=self.crops_per_video, hflip=self.hflip, **self._clips(seed))

    def eval_dataset(self, seed: int) -> ClipDataset:
        """Make the data set of evaluation clips: one crop per video, and no replacement for an unreadable video.

        Args:
            seed: seed of the clips, crops and flips.

        Returns:
            The data set.

        Raises:
            ValueError: options do not fit together; see `read_mixture` and `ClipDataset`.
        """
        mixture = self.read(self.eval_data)
        return ClipDataset(mixture, crops_per_video=1, max_replacements=0, **self._clips(seed))

    def centre_views(self, videos: Mixture, sampling: str = "dense") -> ViewDataset:
        """The view of each video that evaluations during training take: in the middle of its time and frames.

        Args:
            videos: the videos.
            sampling: a key of VIEW_SAMPLINGS.

        Returns:
            The data set.
        """
        return ViewDataset(
            videos,
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            size=(self.image_size, self.image_size),
            short_side=self.image_size,
            segments=1,
            crops=1,
            sampling=sampling,
            reader=self.reader,
            max_decoded_bytes=self.max_decoded_bytes,
        )


@dataclass(frozen=True)
class MaskOptions(Section):
    """The tokens that the encoder sees, and the tokens that the decoder predicts."""

    mask: str = option("tube", "mask of the encoder", choices=tuple(m for m in ENCODER_MASKS if m != "none"))
    mask_ratio: float = option(0.9, "share of tokens hidden from the encoder", least=0, below=1)
    decoder_mask: str = option("running_cell", "mask of the decoder", choices=DECODER_MASKS)
    decoder_mask_ratio: float = option(0.5, "share of tokens that are not decoded", least=0, below=1)

    def __post_init__(self) -> None:
        if self.mask == "none":
            raise ValueError("mask 'none' hides nothing, so no token is left to learn from: use tube or random")
        super().__post_init__()

    def plan(self, sample: Tensor, grid: tuple[int, int, int], seed: int) -> MaskPlan:
        """Make the masks of a batch.

        Args:
            sample: (B,) int64 sample numbers; the plan is on their device.
            grid: (T', H', W') tokens of a clip.
            seed: seed of all masks, in [0, 2⁶³).

        Returns:
            The plan.

        Raises:
            ValueError: a ratio, the seed or the grid is out of range.
        """
        return make_masks(sample, grid, seed=seed, **asdict(self))


@dataclass(frozen=True)
class BackboneOptions(Section):
    """The size of a model, and how a step computes its blocks."""

    sizes: ClassVar[Mapping[str, ClipConfig]] = SIZES
    model: str = option("base", "size of the model", choices=SIZES)
    drop_path: float = option(
        0.0, "stochastic depth of the last block; rises linearly over depth (published: 0)", least=0, below=1
    )
    attention: str = option("sdpa", "attention backend", choices=BACKENDS)
    elementwise: str = option(
        "triton",
        "what computes norms, residual additions and GELUs; apex: NVIDIA's, for the norms only",
        choices=IMPLEMENTATIONS,
    )
    recompute: str = option(
        "auto",
        "repeat norms and GELUs in backward to save memory; auto: only if the step would not fit the GPU otherwise",
        choices=RECOMPUTE,
        free=True,
    )
    activation_checkpointing: bool = option(False, "repeat each block in backward instead of keeping its activations")
    compile: bool = option(False, "compile the model with torch.compile; the first step then takes minutes")

    def config(self, data: ClipOptions, **changes: Any) -> ClipConfig:
        """The configuration of the model for the clips of `data`.

        Args:
            data: gives the size of the clips.
            **changes: further fields of the configuration.

        Returns:
            The configuration.

        Raises:
            ValueError: sizes do not fit together.
        """
        result: ClipConfig = replace(
            cast(Any, self.sizes[self.model]),
            num_frames=data.num_frames,
            image_size=(data.image_size, data.image_size),
            drop_path=self.drop_path,
            attention=self.attention,
            elementwise=self.elementwise,
            recompute=self.recompute,
            activation_checkpointing=self.activation_checkpointing,
            **changes,
        )
        return result


@dataclass(frozen=True)
class ModelOptions(BackboneOptions):
    """The model of pre-training, and how the step computes it."""

    model: str = option("base", "size of the model", choices=CONFIGS)
    decoder_depth: int = option(0, "blocks of the decoder; 0: as published, 4", least=0)
    decoder_context: str = option(
        "published",
        "disjoint: mask tokens never overlap visible ones, as in the paper's text",
        choices=DECODER_CONTEXTS,
    )

    def config(self, data: ClipOptions, **changes: Any) -> VideoMAEConfig:
        """See `BackboneOptions.config`."""
        depth = {"decoder_depth": self.decoder_depth} if self.decoder_depth else {}
        return cast(VideoMAEConfig, super().config(data, decoder_context=self.decoder_context, **depth, **changes))


@dataclass(frozen=True)
class RunOptions(Section):
    """The output, start, end and reports of a run."""

    output: str = option("", "folder of the run: log, checkpoints, pictures, weights", free=True)
    resume: bool = option(False, "continue from the last checkpoint in the output folder", free=True)
    init: str = option("", "weights to start from: a published or Hugging Face checkpoint, or a run", free=True)
    init_partial: bool = option(False, "load the weights of --init that fit; print missing and extra ones", free=True)
    precision: str = option("auto", "auto: bf16 on a GPU, fp32 on a CPU", choices=PRECISIONS)
    seed: int = option(0, "seed of weights, data order, crops and masks", least=0, below=2**63)
    max_steps: int = option(0, "stop, with a checkpoint, after this many steps in all; 0: off", least=0, free=True)
    log_every: int = option(10, "steps between log lines; each log line is a host sync", least=1, free=True)
    save_every: int = option(0, "steps between checkpoints; 0: once per epoch", least=0, free=True)
    keep_checkpoints: int = option(2, "number of newest checkpoints to keep; 0 keeps all", least=0, free=True)
    eval_every: int = option(0, "steps between evaluations on --eval-data; 0: none", least=0, free=True)
    track: str = option("tensorboard", "trackers, comma-separated: tensorboard,wandb,mlflow,...; or none", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        tracker_names(self.track)

    def initialize(self, model: nn.Module) -> str:
        """Load the weights that `init` names, unless the run continues from a checkpoint.

        Args:
            model: a new model.

        Returns:
            A message for the user: the source of the weights, and the missing and extra ones. Empty without `init`.

        Raises:
            FileNotFoundError: the file or folder does not exist.
            ValueError: the weights cannot be read, or do not fit; see `init_weights`.
        """
        if not self.init:
            return ""
        if self.resume and list_checkpoints(Path(self.output)):
            return f"--resume continues from a checkpoint: --init {self.init} is not read"
        source = (list_checkpoints(Path(self.init)) or [Path(self.init)])[-1]  # the last checkpoint of a run
        return self._load(model, source) or f"all weights are from {source}"

    def _load(self, model: nn.Module, source: Path) -> str:
        """Load weights into a model, and report what is missing and extra."""
        return init_weights(model, source, strict=not self.init_partial)
