"""The families of models: the names of their sizes, their classifiers, and how their weights are recognised.

An entry of FAMILIES is all that the options of fine-tuning and the readers of classifiers need to build a model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .classify import POSITIONS, PUBLISHED_CLIP, VideoMAEForClassification
from .config import CONFIGS, INTERNVIDEO2_CONFIGS, ClipConfig, InternVideo2Config, VideoMAEConfig
from .internvideo2_classify import InternVideo2ForClassification

VideoClassifier = VideoMAEForClassification | InternVideo2ForClassification


@dataclass(frozen=True)
class ModelFamily:
    """Models that share a configuration, a classifier and the names of their weights.

    Attributes:
        name: for the user.
        prefix: of the names of its sizes, as the option `model` takes them.
        sizes: the published configurations by size.
        config: the class of its configurations.
        classifier: makes a classifier of a configuration and a number of classes, with the keywords of `classifier_of`.
        own_names: names, without prefixes, that all weights of this family have and those of no other. Empty: weights
            of no other family are its own.
        learns_positions: whether position tables are weights, so that they are interpolated when weights are read.
    """

    name: str
    prefix: str
    sizes: Mapping[str, ClipConfig]
    config: type[ClipConfig]
    classifier: Callable[..., VideoClassifier]
    own_names: frozenset[str] = frozenset()
    learns_positions: bool = False

    def has_weights(self, state: Mapping[str, Any]) -> bool:
        """Whether names, with or without the prefix `encoder.`, are those of its weights."""
        return any(all(f"{prefix}{name}" in state for name in self.own_names) for prefix in ("", "encoder."))


def _internvideo2(
    config: InternVideo2Config, num_classes: int, *, positions: str, trained_clip: tuple[int, int, int], **options: Any
) -> InternVideo2ForClassification:
    return InternVideo2ForClassification(config, num_classes, **options)  # the table is a weight


VIDEOMAE = ModelFamily("VideoMAE", "", CONFIGS, VideoMAEConfig, VideoMAEForClassification)
INTERNVIDEO2 = ModelFamily(
    "InternVideo2",
    "internvideo2-",
    INTERNVIDEO2_CONFIGS,
    InternVideo2Config,
    _internvideo2,
    frozenset({"blocks.0.attn.q_norm.weight", "blocks.0.ls1.gamma"}),
    learns_positions=True,
)
FAMILIES = (INTERNVIDEO2, VIDEOMAE)  # the one without names of its own is last


class Sizes(Mapping[str, ClipConfig]):
    """The published configurations of some families, by the names that the option `model` takes."""

    def __init__(self, families: Sequence[ModelFamily]) -> None:
        self.families = families

    def __getitem__(self, name: str) -> ClipConfig:
        for family in self.families:
            size = name.removeprefix(family.prefix)
            if name.startswith(family.prefix) and size in family.sizes:
                return family.sizes[size]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (f"{family.prefix}{size}" for family in self.families for size in family.sizes)

    def __len__(self) -> int:
        return sum(len(family.sizes) for family in self.families)


SIZES = Sizes(FAMILIES[::-1])


def config_of_size(name: str, **changes: Any) -> ClipConfig:
    """The published configuration of a size of any family, with changes.

    Args:
        name: a key of SIZES, such as "base" or "internvideo2-base".
        **changes: fields of the configuration that differ.

    Returns:
        The configuration.

    Raises:
        ValueError: no family has such a size, or the values do not fit together.
        TypeError: the configuration has no such field.
    """
    if name not in SIZES:
        raise ValueError(f"model must be one of {', '.join(SIZES)}, got '{name}'")
    config: Any = SIZES[name]
    result: ClipConfig = replace(config, **changes)
    return result


def family_of(config: ClipConfig) -> ModelFamily:
    """The family of a configuration."""
    return next(family for family in FAMILIES if isinstance(config, family.config))


def family_of_weights(state: Mapping[str, Any]) -> ModelFamily:
    """The family of weights, by their names.

    Args:
        state: as `read_weights` returns it.

    Returns:
        The family; VIDEOMAE, which has several layouts, if the names are of no other.
    """
    return next(family for family in FAMILIES if family.has_weights(state))


def classifier_of(
    config: ClipConfig,
    num_classes: int,
    *,
    head_dropout: float = 0.0,
    init_scale: float = 0.001,
    positions: str = POSITIONS[0],
    trained_clip: tuple[int, int, int] = PUBLISHED_CLIP,
) -> VideoClassifier:
    """Make the classifier of a configuration, with random weights.

    Args:
        config: of any family.
        num_classes: C.
        head_dropout: rate of dropout before the head, in [0, 1).
        init_scale: factor of the head's initial weight and bias.
        positions: see `VideoMAEForClassification`; not used where positions are learned.
        trained_clip: likewise.

    Returns:
        The model.

    Raises:
        ValueError: a number is out of range; the message names the argument.
    """
    options = dict(head_dropout=head_dropout, init_scale=init_scale, positions=positions, trained_clip=trained_clip)
    return family_of(config).classifier(config, num_classes, **options)
