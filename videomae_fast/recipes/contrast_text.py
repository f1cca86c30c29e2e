"""The features of a frozen text tower in contrastive pre-training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data import Mixture
from ..data.captioned import CaptionTokenizer
from ..engine.precision import resolve_precision
from ..models.dual_encoder import VideoTextModel
from .contrast_options import TextTowerOptions
from .ranks import process_group
from .teacher import tensors_digest
from .text_features import TextFeatures

FOLDER = "text_features"  # in the output folder


class KeptText:
    """The features of captions by the frozen text tower and projection of a model.

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
            ValueError: as `TextFeatures.prepare`.
            OSError: as `TextFeatures.prepare`.
        """
        parts = (("text_encoder", model.text_encoder), ("text_proj", model.text_proj))
        state = {f"{name}.{key}": tensor for name, part in parts for key, tensor in part.state_dict().items()}
        facts = {
            "weights": tensors_digest(state, self._pool),
            "tokenizer": tensors_digest({}, tokenizer.tokenizer.backend_tokenizer.to_str()),
            "max_tokens": tokenizer.max_tokens,
            "precision": self._precision,
        }
        self.digest = str(facts["weights"])
        self._features = TextFeatures(self._folder, facts)
        group = process_group()
        place = (group.rank(), group.size()) if group else (0, 1)
        self._features.prepare(mixtures, _Encoder(model, tokenizer, self._precision), model.embed_dim, say, *place)

    def rows(self, caption_id: Tensor) -> Tensor:
        """See `TextFeatures.rows`."""
        return self._features.rows(caption_id)

    @property
    def some_id(self) -> Tensor:
        """() int64, the id of a caption that has features."""
        return self._features.some_id


class _Encoder:
    def __init__(self, model: VideoTextModel, tokenizer: CaptionTokenizer, precision: str) -> None:
        self._model, self._tokenizer, self._half = model, tokenizer, precision == "bf16"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        device = self._model.text_proj.weight.device
        tokens, _ = self._tokenizer(texts)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._half, cache_enabled=False):
            return self._model.project_text(self._model.encode_text(*tokens.to(device)).pooled)
