"""Public StyleGAN2 weights in rosinality's layout (`sg2-lhq-1024.pt`) and those of their feature-style encoder, as a checkpoint folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.backbones.feature_style_encoder import OfficialFeatureStyleEncoder
from calotype.backbones.landscape_generator import save_parts
from calotype.backbones.official_weights import assembled, named_weights, read_weights
from calotype.backbones.stylegan2 import StyleGAN2Generator
from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.files import new_folder

_GIVE = "give the file of a generator that rosinality's stylegan2-pytorch trained, such as sg2-lhq-1024.pt"
_GIVE_ENCODER = "give enc.pth.tar of the feature-style encoder that was trained for this generator"
_GIVE_MEAN = "give the file of the generator's mean w, such as sg2-lhq-1024-mean.pt"
AVERAGED = "g_ema"
"""Where a training's file has the generator's averaged weights."""
FILTERS = (".blur.kernel", ".upsample.kernel")
SEEN = 256
"""Pixels along a side of what the published encoder receives."""
UNCHECKED = (
    "names and shapes fit what the public code says, but these weights were never run here with the public files: see whether the "
    "reconstruction of a landscape is right"
)


def is_stylegan2(found: Any) -> bool:
    """Whether a file of weights is a generator's, by its names."""
    return isinstance(found, Mapping) and (AVERAGED in found or any(str(name).endswith("convs.0.conv.weight") for name in found))


def convert_stylegan2(
    file: Path, out: Path, *, encoder: Path, mean: Path | None = None, feature_layer: int | None = None, events: Events = SILENT
) -> Path:  # fmt: skip
    """Write a folder of the role LandscapeGenerator: generator and encoder; masks and motions are given to it.

    Args:
        file: the generator's weights.
        out: the folder, which isn't there yet.
        encoder: the encoder's weights.
        mean: the generator's mean w; None measures it over 10,000 z.
        feature_layer: which layer receives the encoder's feature; None reads it from the name of the encoder's folder (`lhq_k9`).
        events: hears notes.

    Raises:
        InputError: a file can't be used, or they don't belong together.
    """
    layer = _layer_of(encoder) if feature_layer is None else feature_layer
    generator = read_generator(file)
    if mean is None:
        generator.measure_mean_style()
        events.note(f"the mean w was measured over 10,000 z; the encoder was trained with that of the file beside {file.name}")
    else:
        generator.mean_style.copy_(read_mean(mean, generator.config.style_dim))
    found = read_encoder(encoder, generator, layer)
    events.note(UNCHECKED)
    with new_folder(out) as making:
        save_parts(making, generator=generator, encoder=found)
    return out


def _layer_of(encoder: Path) -> int:
    """The layer that the name of the encoder's folder says."""
    stated = re.search(r"_k(\d{1,2})$", encoder.absolute().parent.name)
    if stated is None:
        raise InputError(
            f"which layer receives the feature of {encoder} isn't in its weights and its folder isn't named like lhq_k9: give it as "
            "--feature-layer"
        )
    return int(stated[1])


def read_generator(file: Path) -> StyleGAN2Generator:
    """The generator that a file of weights is of; its mean style is 0.

    Raises:
        InputError: it can't be read without running code, or holds other weights.
    """
    found = read_weights(file, _GIVE)
    state = named_weights(found[AVERAGED] if isinstance(found, Mapping) and AVERAGED in found else found, file, _GIVE)
    _drop_filters(state, file)
    widths = [_dim(state, "conv1.conv.weight", 1, file)]
    mapping = 0
    while f"convs.{2 * len(widths) - 2}.conv.weight" in state:
        widths.append(_dim(state, f"convs.{2 * len(widths) - 2}.conv.weight", 1, file))
    while f"style.{mapping + 1}.weight" in state:
        mapping += 1
    style_dim = _dim(state, "style.1.weight", 0, file)
    state["mean_style"] = torch.zeros(style_dim)
    channels = {4 << level: width for level, width in enumerate(widths)}

    def make() -> StyleGAN2Generator:
        made: StyleGAN2Generator = StyleGAN2Generator(
            size=max(channels), style_dim=style_dim, num_mapping_layers=mapping, channels=channels
        )  # fmt: skip
        return made

    return assembled(make, state, file, _GIVE)


def read_encoder(file: Path, generator: StyleGAN2Generator, feature_layer: int) -> OfficialFeatureStyleEncoder:
    """The encoder that a file of weights is of, for a generator whose mean style is set.

    Raises:
        InputError: it can't be read without running code, holds other weights, or doesn't fit the generator and its layer.
    """
    state = named_weights(read_weights(file, _GIVE_ENCODER), file, _GIVE_ENCODER)
    expected = generator.input_shape(feature_layer)[0]
    channels = _dim(state, "content_layer.4.weight", 0, file)
    if channels != expected:
        raise InputError(f"{file} gives features of {channels} channels and layer {feature_layer} receives {expected}; give another layer")
    widths = [_dim(state, "conv.0.weight", 0, file), *(_dim(state, f"block_{number}.0.conv1.weight", 0, file) for number in range(1, 5))]
    depths = [sum(re.fullmatch(rf"block_{number}\.\d+\.conv1\.weight", name) is not None for name in state) for number in range(1, 5)]
    size = generator.config.size
    state["mean_style"] = generator.mean_style.clone()

    def make() -> OfficialFeatureStyleEncoder:
        made: OfficialFeatureStyleEncoder = OfficialFeatureStyleEncoder(
            size=size, seen=min(SEEN, size), style_dim=generator.config.style_dim, num_styles=generator.num_styles, depths=depths,
            feature_layer=feature_layer, feature_channels=channels, widths=widths,
            feature_width=_dim(state, "content_layer.1.weight", 0, file),
        )  # fmt: skip
        return made

    return assembled(make, state, file, _GIVE_ENCODER)


def read_mean(file: Path, style_dim: int) -> Tensor:
    """The mean w of a file.

    Raises:
        InputError: it holds something else.
    """
    found = read_weights(file, _GIVE_MEAN)
    if not isinstance(found, Tensor) or found.numel() != style_dim or not bool(found.isfinite().all()):
        raise InputError(f"{file} holds no {style_dim} numbers; {_GIVE_MEAN}")
    return found.float().flatten()


def _dim(state: Mapping[str, Tensor], name: str, dim: int, file: Path) -> int:
    """A side of a tensor."""
    if name not in state or state[name].ndim <= dim:
        raise InputError(
            f"{file} has no weights named {name}; {_GIVE_ENCODER if name.startswith(('conv.', 'block', 'content')) else _GIVE}"
        )
    return int(state[name].shape[dim])


def _drop_filters(state: dict[str, Tensor], file: Path) -> None:
    """Take the stored filters out, which are the same for all weights that can be read."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    known = line[:, None] * line / 16
    for name in [name for name in state if name.endswith(FILTERS)]:
        value = state.pop(name)
        if value.shape != known.shape or not torch.allclose(value, known, atol=1e-4):
            raise InputError(f"{file}: the filter {name} isn't [1, 3, 3, 1]; {_GIVE}")
