"""The features of a frozen text tower in contrastive pre-training."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._text import printable
from ..data import Mixture
from ..data.captioned import CaptionTokenizer
from ..data.captioned.batch import digest_of_caption
from ..engine.precision import resolve_precision
from ..models.dual_encoder import VideoTextModel
from .contrast_options import TextTowerOptions
from .kept_features import KeptFeatures, Rows
from .ranks import process_group
from .teacher import tensors_digest

FOLDER = "text_features"  # in the output folder
BATCH = 256  # captions that the tower sees at a time


class KeptText:
    """The features of all captions of a run by the frozen text tower and projection of its model.

    Args:
        options: section of the text tower.
        output: folder of the run.
        precision: of the run.
    """

    def __init__(self, options: TextTowerOptions, output: Path, precision: str) -> None:
        self._folder = Path(options.text_features) if options.text_features else output / FOLDER
        self._pool, self._precision = options.text_pool, resolve_precision(precision)
        self.digest = ""

    def prepare(
        self,
        mixtures: Sequence[Mixture],
        model: VideoTextModel,
        tokenizer: CaptionTokenizer,
        say: Callable[[str], None],
    ) -> None:
        """Read the features, or compute them.

        Args:
            mixtures: all captioned entries of the run.
            model: on the device of the run; its text tower is frozen.
            tokenizer: of the tower.
            say: prints a line.

        Raises:
            ValueError: as `KeptFeatures.prepare`; or features are NaN or infinite.
            OSError: as `KeptFeatures.prepare`.
        """
        parts = (("text_encoder", model.text_encoder), ("text_proj", model.text_proj))
        state = {f"{name}.{key}": tensor for name, part in parts for key, tensor in part.state_dict().items()}
        self.digest = tensors_digest(state, self._pool)
        ids, first = _distinct(mixtures)
        facts = {
            "weights": self.digest,
            "tokenizer": tensors_digest({}, tokenizer.tokenizer.backend_tokenizer.to_str()),
            "max_tokens": tokenizer.max_tokens,
            "precision": self._precision,
            "captions": len(ids),
            "captions_digest": hashlib.sha256(ids.tobytes()).hexdigest()[:16],
        }
        group = process_group()
        rank, world_size = (group.rank(), group.size()) if group else (0, 1)

        def fill(rows: Rows) -> None:
            say(f"computing the features of {len(ids)} captions: {printable(self._folder)}")
            own = ((place, text) for place, text in _first_texts(mixtures, first) if place % world_size == rank)
            while some := list(islice(own, BATCH)):
                features, cut = self._encode(model, tokenizer, [text for _, text in some])
                places = [place for place, _ in some]
                rows["features"][places], rows["cut"][places] = features.float().cpu().numpy(), cut.numpy()

        self._features = KeptFeatures(self._folder, facts, "text")
        self._features.prepare(ids, {"features": (model.embed_dim,), "cut": ()}, fill, rank, world_size)
        if cut := int(self._features.arrays["cut"].sum()):
            say(f"{cut} of {len(ids)} captions were cut to the most tokens allowed")

    def rows(self, caption_id: Tensor) -> Tensor:
        """The features (B, E) of captions by their `CaptionedBatch.caption_id`, on the host."""
        return self._features.rows("features", caption_id)

    @property
    def some_id(self) -> Tensor:
        """() int64, the id of a caption that has features."""
        return torch.tensor(self._features.ids[0])

    @torch.no_grad()
    def _encode(
        self, model: VideoTextModel, tokenizer: CaptionTokenizer, texts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Features (B, E), and which captions were cut (B,)."""
        device = model.text_proj.weight.device
        tokens, cut = tokenizer(texts)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False):
            features = model.project_text(model.encode_text(*tokens.to(device)).pooled)
        if not features.isfinite().all():
            raise ValueError("the text tower's features are NaN or infinite: its weights are damaged")
        return features, cut


def _texts(mixtures: Sequence[Mixture]) -> Iterator[str]:
    for mixture in mixtures:
        for index in range(len(mixture)):
            yield from mixture.captioned(index).captions


def _distinct(mixtures: Sequence[Mixture]) -> tuple[np.ndarray, np.ndarray]:
    """The digests of all captions, ascending, and the number of the first caption with each."""
    ids = np.fromiter((digest_of_caption(text) for text in _texts(mixtures)), dtype=np.int64)
    return np.unique(ids, return_index=True)


def _first_texts(mixtures: Sequence[Mixture], first: np.ndarray) -> Iterator[tuple[int, str]]:
    """Each distinct caption once, with the place of its digest."""
    place_of = np.full(int(first.max()) + 1, -1, dtype=np.int64)
    place_of[first] = np.arange(len(first))
    for place, text in zip(place_of, _texts(mixtures), strict=False):
        if place >= 0:
            yield int(place), text
