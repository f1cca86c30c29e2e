"""Read a model for its features: the encoder of pre-training weights, or a classifier, of any layout."""

from dataclasses import replace

from ..models.classify import VideoMAEForClassification
from ..models.encoder import Encoder
from ..models.internvideo2 import InternVideo2
from .checkpoint import CheckpointError, State, load_weights, read_weights
from .classifier import as_classifier, is_pretraining
from .internvideo2 import CLASSIFIER, build_encoder, fit_positions, internvideo2_state, is_internvideo2, trained_config
from .pretrained_encoder import pretrained_encoder
from .settings import PathLike

FeatureModel = Encoder | VideoMAEForClassification | InternVideo2


def read_feature_model(
    path: PathLike, *, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> FeatureModel:
    """Read a model that has `tokens(clip)` and `features(clip)`.

    Of pre-training weights, tokens are normed one by one, and `features` is their mean; the decoder is not built.
    Of a classifier, `tokens` are before its norm, and `features` is `fc_norm` of their mean, as its head reads it.
    Of an InternVideo2, `features` is the row of the attention pool, after `fc_norm` if it is a classifier; of a student
    without a pool, which learned from a video teacher alone, the mean of its tokens.
    Positions of clips of another size than the weights were trained on are interpolated.

    Args:
        path: a file of weights, or a folder that holds one; of pre-training or a classifier, in any known layout.
        num_frames: frames of a clip; by default those of the `config.json` beside the weights, or else 16; of an
            InternVideo2 as many as its position table has.
        image_size: height and width, or (height, width), in pixels; by default likewise, or else 224.

    Returns:
        The model, in float32 and in evaluation mode.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or holds no such model, or a `config.json` of transformers beside it
            describes one that this library does not have.
        ValueError: the clip does not divide into patches.

    Warns:
        UserWarning: the `preprocessor_config.json` beside the weights normalises by other numbers than ImageNet's.
    """
    state = read_weights(path)
    if is_internvideo2(state) and not set(CLASSIFIER) & state.keys():
        return _internvideo2(state, path, num_frames, image_size).eval()
    if not is_pretraining(state):
        return as_classifier(state, path, num_frames=num_frames, image_size=image_size).build().eval()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    config, table, weights = pretrained_encoder(state, path, num_frames, size)
    model = Encoder(config, table)
    load_weights(model, weights)
    return model.eval()


def _internvideo2(
    state: State, path: PathLike, num_frames: int | None, image_size: int | tuple[int, int] | None
) -> InternVideo2:
    try:
        state = internvideo2_state(state)
        trained = trained_config(state, path)
        size = (image_size, image_size) if isinstance(image_size, int) else image_size or trained.image_size
        config = replace(trained, num_frames=num_frames or trained.num_frames, image_size=size)
        return build_encoder(fit_positions(state, path, config)[0], config)
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
