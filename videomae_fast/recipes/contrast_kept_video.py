"""The features of a frozen video tower in contrastive pre-training, and clips that need not be decoded."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._text import printable
from ..data import Mixture, VideoError
from ..data.captioned import CaptionedDataset
from ..data.captioned.batch import digest_of_video
from ..engine.precision import resolve_precision
from ..models.dual_encoder import VideoTextModel
from ..models.video_tower import VideoRows
from .contrast_config import ContrastConfig
from .contrast_options import Datasets
from .contrast_videos import EvaluationPairs
from .kept_features import KeptFeatures, Rows
from .ranks import gather_rows, process_group
from .teacher import tensors_digest

_NO_PIXELS = ("max_decoded_bytes",)  # options that change no pixel
KINDS = ("videos", "images")  # folders in that of the features: their clips have different numbers of tokens


class KeptVideo:
    """The rows of a frozen video tower for one clip of each entry, with all its tokens.

    The clip of an entry is the one that its number in the list draws, the same in every epoch. An entry that cannot be
    read has no features, and is replaced in training as an unreadable video is.

    Args:
        config: of the run.
    """

    def __init__(self, config: ContrastConfig) -> None:
        self.config, self.folder = config, Path(config.model.video_features)
        self.digest = ""

    def prepare(
        self, kinds: tuple[Mixture | None, Mixture | None], model: VideoTextModel, say: Callable[[str], None]
    ) -> None:
        """Read the features, or compute them.

        Args:
            kinds: the videos and the images.
            model: on the device of the run; its video tower is frozen.
            say: prints a line.

        Raises:
            ValueError: as `KeptFeatures.prepare`; features are NaN or infinite, or no entry can be read.
            OSError: as `KeptFeatures.prepare`.
        """
        data, config = self.config.data, self.config
        self.digest = tensors_digest(model.vision_encoder.state_dict())
        clips = {name: value for name, value in data.clip_options(config.run.seed).items() if name not in _NO_PIXELS}
        clips["size"] = list(clips["size"])  # as JSON has it
        self._kept: list[KeptFeatures | None] = []
        for number, (name, mixture) in enumerate(zip(KINDS, kinds, strict=True)):
            if mixture is None:
                self._kept.append(None)
                continue
            given: list[Mixture | None] = [None, None]
            given[number] = mixture
            datasets = data.datasets((given[0], given[1]), config.run.seed, max_replacements=0)
            ids = np.unique([digest_of_video(mixture.captioned(index)) for index in range(len(mixture))])
            facts = {
                "weights": self.digest,
                "clips": clips,
                "precision": resolve_precision(config.run.precision),
                "fused": config.fusion.fusion_layers > 0,
                name: len(ids),
                f"{name}_digest": hashlib.sha256(ids.tobytes() + mixture.fingerprint().encode()).hexdigest()[:16],
            }
            self._kept.append(self._prepare(name, ids, facts, datasets, model, say))

    def _prepare(
        self,
        name: str,
        ids: np.ndarray,
        facts: dict[str, Any],
        datasets: Datasets,
        model: VideoTextModel,
        say: Callable[[str], None],
    ) -> KeptFeatures:
        tower, config, folder = model.vision_encoder, self.config, self.folder / name
        group = process_group()
        rank, world_size = (group.rank(), group.size()) if group else (0, 1)
        tokens = (tower.image_config if name == "images" else tower.config).num_tokens + int(
            hasattr(tower, "cls_token")
        )
        shapes: dict[str, tuple[int, ...]] = {"readable": (), "pooled": (tower.feature_dim,)}
        if facts["fused"]:
            shapes["tokens"] = tokens, tower.token_dim

        def fill(rows: Rows) -> None:
            say(f"computing the features of {len(ids)} {name}: {printable(folder)}")
            pairs = EvaluationPairs(datasets, config.optimizer.part_size, config.data.workers, None)
            device = model.text_proj.weight.device
            own = torch.zeros(1, 2, dtype=torch.int64, device=device)  # clips, and those that repeat a frame
            for batch, counts in pairs.batches(rank, world_size):
                if counts:
                    own += torch.tensor([len(batch.sample), batch.repeated], device=device)
                    found = self._encode(tower, batch.clips.to(device))
                    places = np.searchsorted(ids, batch.video_id.numpy())
                    rows["readable"][places] = 1
                    for key in shapes.keys() - {"readable"}:
                        rows[key][places] = getattr(found, key).float().cpu().numpy()
            clips, repeated = gather_rows(own, group).sum(0).tolist()
            if repeated:
                say(f"{repeated} of {clips} clips repeat a frame: their videos are too short")

        kept = KeptFeatures(folder, facts, "video")
        kept.prepare(ids, shapes, fill, rank, world_size)
        share = 1 - float(kept.arrays["readable"].mean())
        if share > config.data.max_bad_share:
            raise ValueError(
                f"{share:.0%} of the {name} cannot be read, more than max_bad_share {config.data.max_bad_share:.0%}; "
                f"delete {folder} when they can be"
            )
        return kept

    def rows(self, video_id: Tensor, is_image: bool, device: torch.device) -> VideoRows:
        """What the tower makes of a batch of one kind: `VideoRows`, whose tokens are none without fusion."""
        kept = self._kept[is_image]
        assert kept is not None
        pooled = kept.rows("pooled", video_id).to(device, non_blocking=True)
        fused = "tokens" in kept.arrays
        tokens = kept.rows("tokens", video_id).to(device, non_blocking=True) if fused else pooled[:, None, :0]
        return VideoRows(tokens, pooled)

    def datasets(self, kinds: tuple[Mixture | None, Mixture | None]) -> Datasets:
        """The data sets of training: captions are drawn as always, and no video is decoded."""
        made = [
            None
            if mixture is None or kept is None
            else _Undecoded(mixture, kept, self.config.run.seed, name == "images")
            for mixture, kept, name in zip(kinds, self._kept, KINDS, strict=True)
        ]
        return made[0], made[1]

    @torch.no_grad()
    def _encode(self, tower: nn.Module, clips: Any) -> VideoRows:
        half = resolve_precision(self.config.run.precision) == "bf16"
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            found: VideoRows = tower(clips)
        if not found.pooled.isfinite().all():
            raise ValueError("the video tower's features are NaN or infinite: its weights are damaged")
        return found


class _Undecoded(CaptionedDataset):
    """Captioned entries whose clips are one black pixel, because the features of their videos are kept."""

    def __init__(self, mixture: Mixture, kept: KeptFeatures, seed: int, images: bool) -> None:
        super().__init__(mixture, num_frames=1, sampling="uniform", size=(1, 1), seed=seed)
        self._readable = set(kept.ids[kept.arrays["readable"] > 0].tolist())

    def decode(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        entry = self.annotations.captioned(index)
        if digest_of_video(entry) not in self._readable:
            raise VideoError(entry.name, "could not be read when its features were computed")
        return np.zeros(1, dtype=np.int64), torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
