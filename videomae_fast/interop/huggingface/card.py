"""Model cards: what a converted model is, how it was trained as far as is known, and code that loads it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ...models.config import CONFIGS, VideoMAEConfig

CARD = """\
---
library_name: transformers
tags:
- video
- videomae
- masked-autoencoder
- self-supervised-learning
# license: fill in. The converted file does not state one.
---

# VideoMAE pre-training model, converted

A `VideoMAEForPreTraining`: a masked autoencoder for video, whose decoder predicts the pixels of hidden patches. It is
a starting point for fine-tuning and for features, not a classifier.

The weights were converted from `{source}` by videomae_fast, bit for bit. The converter knows nothing of the training
data, of the results or of the license: please add them.

## Sizes

| | |
|---|---|
| parameters | {parameters:,} |
| clip | {num_frames} frames of {image_size}x{image_size} pixels, normalised by ImageNet's mean and std |
| tokens | {tokens:,}: patches of {tubelet_size} frames x {patch_size} x {patch_size} pixels |
| encoder | {encoder_depth} layers, {encoder_dim} wide, {encoder_heads} heads |
| decoder | {decoder_depth} layers, {decoder_dim} wide, {decoder_heads} heads |

## Masks

`bool_masked_pos` has the shape (batch, {tokens}) and is True for hidden tokens; tokens are in (time, height, width)
order.

{masks}

## With transformers

```python
from transformers import AutoImageProcessor, VideoMAEForPreTraining

processor = AutoImageProcessor.from_pretrained("{folder}")
model = VideoMAEForPreTraining.from_pretrained("{folder}")
```

transformers 5.5 to 5.16 loses the biases of queries and values in `from_pretrained`; with these versions call
`videomae_fast.interop.load_huggingface(model, "{folder}")` afterwards. `model.decoder.norm.eps = 1e-6` makes the
decoder exactly the published one, where transformers has 1e-5.

## With videomae_fast

```python
from videomae_fast import VideoMAEForPretraining, {maker}
from videomae_fast.interop import init_weights

model = VideoMAEForPretraining({config})
init_weights(model, "{folder}")
```
"""
UNKNOWN_MASKS = "The converted file does not say with which masks the model was trained."
MASKS = ("mask", "mask_ratio", "decoder_mask", "decoder_mask_ratio")


CLASSIFIER_CARD = """\
---
library_name: transformers
pipeline_tag: video-classification
tags:
- video
- videomae
# license: fill in. The converted file does not state one.
---

# VideoMAE classifier, converted

A `VideoMAEForVideoClassification` of {num_classes} classes, {labels}.

The weights were converted from `{source}` by videomae_fast, bit for bit. The converter knows nothing of the training
data, of the results or of the license: please add them.

## Sizes

| | |
|---|---|
| parameters | {parameters:,} |
| clip | {num_frames} frames of {image_size}x{image_size} pixels, normalised by ImageNet's mean and std |
| tokens | {tokens:,}: patches of {tubelet_size} frames x {patch_size} x {patch_size} pixels |
| encoder | {encoder_depth} layers, {encoder_dim} wide, {encoder_heads} heads |

## With transformers

```python
from transformers import AutoImageProcessor, VideoMAEForVideoClassification

processor = AutoImageProcessor.from_pretrained("{folder}")
model = VideoMAEForVideoClassification.from_pretrained("{folder}")
```

transformers 5.5 to 5.16 loses the biases of queries and values in `from_pretrained`; with these versions call
`videomae_fast.interop.load_huggingface(model, "{folder}")` afterwards. `model.fc_norm.eps = 1e-6` makes the classifier
exactly the published one, where transformers has 1e-5. transformers numbers the tokens of any grid anew: it does not
interpolate positions for clips of another size than the model was trained on.

## With videomae_fast

```python
from videomae_fast.interop import read_classifier

classifier = read_classifier("{folder}")
model = classifier.build().eval()
```
"""


def model_card(config: VideoMAEConfig, parameters: int, folder: str, source: str, settings: Mapping[str, Any]) -> str:
    """Write the model card, from the weights and their configuration alone.

    Args:
        config: the model.
        parameters: number of its parameters.
        folder: name of the folder, for the examples.
        source: name of the file that the weights came from.
        settings: settings of the training run; the masks are named if all of MASKS are given.

    Returns:
        Markdown with a YAML header.
    """
    masks = UNKNOWN_MASKS
    if all(name in settings for name in MASKS):
        masks = (
            f"The model was trained with `{settings['mask']}` masks that hide {settings['mask_ratio']} of the tokens "
            f"from the encoder. The decoder's masks were `{settings['decoder_mask']}`"
        )
        masks += "." if settings["decoder_mask"] == "none" else f", ratio {settings['decoder_mask_ratio']}."
    made = _constructor(config)
    maker = made.partition("(")[0]
    return CARD.format(
        **_sizes(config), parameters=parameters, folder=folder, source=source, config=made, maker=maker, masks=masks
    )


def classifier_card(
    config: VideoMAEConfig, parameters: int, folder: str, source: str, class_names: Sequence[str] | None, classes: int
) -> str:
    """Write the model card of a classifier, from the weights and their configuration alone.

    Args:
        config: the model.
        parameters: number of its parameters.
        folder: name of the folder, for the examples.
        source: name of the file that the weights came from.
        class_names: names of its classes; None if they are not known.
        classes: number of its classes.

    Returns:
        Markdown with a YAML header.
    """
    labels = "whose names are in `config.json`" if class_names else "whose names the converted file does not tell"
    return CLASSIFIER_CARD.format(
        **_sizes(config), parameters=parameters, folder=folder, source=source, labels=labels, num_classes=classes
    )


def _sizes(config: VideoMAEConfig) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return values | {"image_size": config.image_size[0], "tokens": config.num_tokens}


def _constructor(config: VideoMAEConfig) -> str:
    """The shortest Python expression that makes `config`."""
    clip = ("num_frames", "image_size")
    for size, known in CONFIGS.items():
        if all(getattr(config, f.name) == getattr(known, f.name) for f in fields(config) if f.name not in clip):
            return f'get_config("{size}", num_frames={config.num_frames}, image_size={config.image_size})'
    values = ((field, getattr(config, field.name)) for field in fields(config))
    return f"VideoMAEConfig({', '.join(f'{f.name}={value!r}' for f, value in values if value != f.default)})"
