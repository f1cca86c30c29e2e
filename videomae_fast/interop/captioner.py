"""Captioners in files: what is trained as weights, the language model by its folder; and starts of their connectors."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from .._files import atomic_write, disk_errors
from .._json import parse_json, read_text
from ..models.captioner import VideoCaptioner
from ..models.config import InternVideo2Config, VideoMAEConfig
from ..models.connectors import CONNECTORS, Connector
from ..models.internvideo2_tower import InternVideo2Tower
from ..models.language_model import add_language_lora, language_lora
from ..models.next_token import check_implementation
from ..models.video_tower import VideoTower
from ..models.video_transformer import VideoTransformer
from .checkpoint import CheckpointError, State, key_problems, load_weights, read_weights, write_safetensors
from .huggingface.language_model import LanguageModelFolder, read_language_model
from .settings import PathLike
from .video_tower import VIDEO, Part, load_part, names_below, video_part

SETTINGS = "captioner.json"  # beside the weights; a run has its options in config.json there
_LANGUAGE, _CONNECTOR = "language_model.", "connector."
_TOWERS: dict[str, Any] = {each.__name__: each for each in (VideoTransformer, InternVideo2Tower)}
_CONFIGS: dict[str, Any] = {each.__name__: each for each in (VideoMAEConfig, InternVideo2Config)}
_OWN = re.compile(r"^(connector|perceiver)\.")  # of a captioner's checkpoint, of OpenFlamingo's
_PROJECTION = re.compile(r"^(mistral|llama|phi)_proj\.")  # in VideoChat2's files, after their language models
_NEW = ("extra_query_tokens", "proj.")  # what files of VideoChat2's first stage lack


def save_captioner(model: VideoCaptioner, folder: PathLike, language_model: LanguageModelFolder) -> None:
    """Write a captioner: `model.safetensors` with all but the language model's own weights, and `captioner.json`.

    Args:
        model: any captioner of this library's towers and connectors.
        folder: is made; files in it are replaced, each whole or not at all.
        language_model: where the language model was read from.

    Raises:
        ImportError: safetensors is missing.
        ValueError: as `captioner_settings`.
        OSError: the disk is full or broken.
    """
    text, path = captioner_settings(model, language_model), Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    state = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items() if _is_kept(n)}
    write_safetensors(state, path / "model.safetensors")
    with disk_errors(path / SETTINGS), atomic_write(path / SETTINGS) as partial_file:
        partial_file.write_text(text, encoding="utf-8")


def captioner_settings(model: VideoCaptioner, language_model: LanguageModelFolder) -> str:
    """The text of `captioner.json`, which tells what the weights beside it are of.

    Args:
        model: any captioner of this library's towers and connectors.
        language_model: where the language model was read from.

    Returns:
        JSON.

    Raises:
        ValueError: the tower or the connector is of a class of somebody else, or adapters differ from each other.
    """
    tower, connector = model.vision_encoder, model.connector
    if type(tower).__name__ not in _TOWERS or type(connector).__name__ not in CONNECTORS:
        raise ValueError(
            f"a captioner of {type(tower).__name__} and {type(connector).__name__} cannot be saved: towers are "
            f"{', '.join(_TOWERS)}, connectors {', '.join(CONNECTORS)}"
        )
    gates = model.cross_attention
    settings = {
        "injection": model.injection,
        "mask_ratio": model.mask_ratio,
        "time_mean": model.time_mean,
        "cross_attention": None if gates is None else gates.settings,
        "connector": {"kind": type(connector).__name__, **connector.settings},
        "video_tower": _tower_settings(tower),
        "language_model": asdict(language_model),
        "lora": language_lora(model.language_model),
    }
    return json.dumps({"captioner": settings}, indent=2) + "\n"


def leave_language_model_out(model: VideoCaptioner) -> None:
    """From now on the state dict of a captioner has no weights of its language model, but for adapters, and needs none.

    A checkpoint is then as small as what is trained, and `load_captioner` reads it with `captioner_settings` beside it.

    Args:
        model: whose language model is frozen.
    """
    model.register_state_dict_post_hook(_drop_language_model)
    model.register_load_state_dict_post_hook(_need_no_language_model)


def _drop_language_model(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix) and not _is_kept(name.removeprefix(prefix))]:
        del state[name]


def _need_no_language_model(model: nn.Module, keys: Any) -> None:
    wrapper = "module."  # of DDP
    keys.missing_keys[:] = [name for name in keys.missing_keys if _is_kept(name.removeprefix(wrapper))]


def load_captioner(folder: PathLike, language_model: PathLike | None = None, *, loss: str = "torch") -> VideoCaptioner:
    """Read a captioner that `save_captioner` wrote.

    Args:
        folder: that it wrote.
        language_model: where the language model is now; None: where it was. Its weights must be the same.
        loss: of the model; see `VideoCaptioner`.

    Returns:
        The model, in evaluation mode; nothing of the video tower is trained.

    Raises:
        ImportError: transformers or, for adapters, peft is missing.
        FileNotFoundError: `folder` does not exist.
        CheckpointError: it holds no captioner, its weights do not fit, or the language model is missing or another one.
    """
    settings = _read_settings(Path(folder))
    state = read_weights(folder)
    try:
        if not is_captioner(state):
            raise CheckpointError(f"it holds no captioner: no name begins with {_CONNECTOR!r}")
        model = _build(settings, _language_model(settings, language_model), loss)
        missing, unexpected = load_weights(model, state, strict=False)
        if problems := key_problems([name for name in missing if _is_kept(name)], unexpected):
            raise CheckpointError("; ".join(problems))
    except CheckpointError as error:
        raise CheckpointError(f"{str(folder)!r} cannot be read as a captioner: {error}") from error
    return model.eval()


def _language_model(settings: Mapping[str, Any], path: PathLike | None) -> nn.Module:
    """The language model that a captioner was trained with, where it is now."""
    reference = _section(settings, "language_model")
    found = LanguageModelFolder.of(path or str(reference.get("path")))
    if found.digest != reference.get("digest"):
        raise CheckpointError(
            f"the language model in {found.path!r} is not the one that it was trained with: its digest is "
            f"{found.digest}, that of the other {reference.get('digest')}"
        )
    model = read_language_model(found.path)
    if settings.get("lora") is not None:
        try:
            add_language_lora(model, **_section(settings, "lora"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"its config.json is not as save_captioner wrote it: lora: {error}") from error
    return model


def _build(settings: Mapping[str, Any], language_model: nn.Module, loss: str) -> VideoCaptioner:
    check_implementation(loss)
    connector = dict(_section(settings, "connector"))
    try:
        return VideoCaptioner(
            _tower(_section(settings, "video_tower")),
            CONNECTORS[connector.pop("kind")](**connector),
            language_model,
            **{name: settings[name] for name in ("injection", "mask_ratio", "time_mean", "cross_attention")},
            loss=loss,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its captioner.json is not as save_captioner wrote it: {error!r}") from error


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"its captioner.json is not as save_captioner wrote it: {name!r} is {section!r:.40}")
    return section


def init_captioner(model: VideoCaptioner, path: PathLike, strict: bool = True) -> str:
    """Start a captioner from another one, as each stage of VideoChat2 from the one before.

    Positions of the video tower are interpolated to its clips. Extra queries and adapters that the other does not have
    stay as they are. The model stays untouched if weights do not fit.

    Args:
        model: after `leave_language_model_out`.
        path: a run of `caption`, or a folder that `save_captioner` wrote.
        strict: whether the file must hold every other tensor, and no further one.

    Returns:
        A report of tensors that are new, interpolated or not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or does not fit.
    """
    return load_part(model, path, partial(_captioner_part, model, path), strict)


def _captioner_part(model: VideoCaptioner, path: PathLike, state: State) -> Part:
    part = video_part(model.vision_encoder, names_below(state, VIDEO), path).below(VIDEO)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(VIDEO)}
    new = [
        name
        for name in model.state_dict()
        if name not in rest and (name == f"{_CONNECTOR}extra_query_tokens" or name.startswith(_LANGUAGE))
    ]
    return Part(part.state | rest, part.new + new, part.unused, part.notes)


def is_captioner(state: State) -> bool:
    """Whether weights are those of a captioner."""
    return any(name.startswith(_CONNECTOR) for name in state)


def init_connector(connector: Connector, path: PathLike, strict: bool = True) -> str:
    """Initialise a connector; it stays untouched if the weights do not fit.

    Args:
        connector: a `QFormer` starts from VideoChat2's files of any stage, a `PerceiverResampler` from OpenFlamingo's,
            each from a captioner of its kind.
        path: a file of weights, or a folder that holds one.
        strict: whether the file must hold every other tensor than those that are new in a later stage.

    Returns:
        A report of tensors that are new or not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or holds no such connector.
    """
    return load_part(connector, path, lambda state: _connector_part(connector, state), strict)


def _connector_part(connector: Connector, state: State) -> Part:
    own = connector.state_dict().keys()
    renamed = {name: _PROJECTION.sub("proj.", _OWN.sub("", name)) for name in state}
    found = {new: state[name] for name, new in renamed.items() if new in own}
    if not found:
        raise CheckpointError(f"it holds no {type(connector).__name__}: its names are {min(state)!r} … {max(state)!r}")
    unused = [name for name, new in renamed.items() if new not in own]
    return Part(found, [name for name in own if name.startswith(_NEW) and name not in found], unused)


def _is_kept(name: str) -> bool:
    return not name.startswith(_LANGUAGE) or ".lora_" in name


def _tower_settings(tower: VideoTower) -> dict[str, Any]:
    options: dict[str, Any] = {"pool": "mean" if getattr(tower, "clip_projector", None) is None else "attention"}
    if isinstance(tower, VideoTransformer):
        options["learn_positions"] = tower.learn_positions
    config = {"kind": type(tower.config).__name__, **asdict(tower.config)}
    return {"kind": type(tower).__name__, **options, "config": config}


def _tower(settings: Mapping[str, Any]) -> VideoTower:
    options = dict(settings)
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in options.pop("config").items()}
    made = _CONFIGS[str(config.pop("kind"))](**config)
    tower: VideoTower = _TOWERS[options.pop("kind")](made, **options)
    return tower


def _read_settings(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise FileNotFoundError(f"captioner {str(folder)!r} does not exist")
    path = folder / SETTINGS
    try:
        found = parse_json(read_text(path)) if path.is_file() else None
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not JSON: {error}") from error
    settings = found.get("captioner") if isinstance(found, dict) else None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{str(folder)!r} holds no captioner: no {SETTINGS} there has a section 'captioner'")
    return settings
