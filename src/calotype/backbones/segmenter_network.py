"""The networks of the role `Segmenter`, by name, and the folder that holds one.

model_index.json    `_class_name` is `SegmenterPipeline`; beside the parts, the facts of `PictureFacts`
network             config.json with the class's name and its arguments, and its weights

The networks are MONAI's. They give a number for each class and pixel (logits).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import nn

from calotype.backbones.building import refuse_larger
from calotype.backbones.folder import INT8, Part
from calotype.backbones.headers import read_json
from calotype.backbones.layouts import pipeline_layout, resolve
from calotype.backbones.quantized import load_quantized, save_quantized
from calotype.errors import InputError, MissingError

PIPELINE = "SegmenterPipeline"
AGAIN = "fetch or save the checkpoint again"

Architecture = Literal["unet", "attention-unet", "segresnet", "unetr", "basic-unet"]
NormName = Literal["instance", "group", "batch"]

_BASIC_LEVELS = 5
_PATCH = 16
"""Pixels along a side of UNETR's patches."""


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """What model_index.json says, beside the parts, of the pictures and masks of a training. A user's pictures are read by it.

    Raises:
        InputError: values that can't be.
    """

    window: tuple[int, ...]
    """Sides that the network was trained at, in pixels or voxels; two or three."""
    channels: int = 1
    """Of a picture."""
    class_values: tuple[int, ...] = (0, 255)
    """Each class's value in the masks' files; the first one is the background."""
    intensity: Mapping[str, Any] = field(default_factory=dict)
    """How a file's values become [0, 1]; see `calotype.data.segmentation_folder.Intensity`."""

    def __post_init__(self) -> None:
        if len(self.window) not in (2, 3) or not all(_whole(side, 1) for side in self.window):
            raise InputError(f"window is {list(self.window)}; it must be two or three whole sides of at least 1: {AGAIN}")
        if not _whole(self.channels, 1) or len(self.class_values) < 2 or not all(isinstance(value, int) for value in self.class_values):
            raise InputError(
                f"channels are {self.channels} and class values {list(self.class_values)}; 1 and two values are the least: {AGAIN}"
            )
        if not isinstance(self.intensity, Mapping):
            raise InputError(f"intensity is {self.intensity!r}; it must be an object: {AGAIN}")

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.class_values)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.window)

    @classmethod
    def of_index(cls, index: Mapping[str, Any]) -> Self:
        """As model_index.json has them.

        Raises:
            InputError: they aren't there, or can't be.
        """
        window, values = index.get("window"), index.get("class_values")
        if not isinstance(window, list) or not isinstance(values, list):
            raise InputError(f"model_index.json says window {window!r} and class_values {values!r}; both must be lists: {AGAIN}")
        return cls(
            window=tuple(window), channels=index.get("channels", 1), class_values=tuple(values), intensity=index.get("intensity") or {}
        )

    def entries(self) -> dict[str, Any]:
        """As model_index.json has them."""
        return {
            "window": list(self.window), "channels": self.channels, "class_values": list(self.class_values),
            "intensity": dict(self.intensity),
        }  # fmt: skip


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def network_config(
    architecture: Architecture, *, channels: int, classes: int, window: Sequence[int], widths: Sequence[int] = (16, 32, 64),
    norm: NormName = "instance",
) -> dict[str, Any]:  # fmt: skip
    """The config of a network: the class's name and arguments, as `make_network` takes them.

    Args:
        architecture: `unet` is nnU-Net's (MONAI's `DynUNet`, which has features at full resolution); `attention-unet` Oktay et al. 2018;
            `segresnet` Myronenko 2018; `unetr` Hatamizadeh et al. 2022; `basic-unet` Ronneberger et al. 2015.
        channels: of a picture.
        classes: with the background.
        window: sides of what it sees, two or three.
        widths: channels of the levels, each with half the resolution of the one before. `segresnet` doubles them, so the first one counts
            and how many there are; `basic-unet` has five; `unetr` takes the first one, and four times the last one for its tokens.
        norm: of the features; `group` has groups of four channels or so.

    Raises:
        InputError: widths or window that the architecture can't have.

    Example:
        >>> network_config("unet", channels=3, classes=2, window=(64, 64))["_class_name"]
        'DynUNet'
    """
    dims, levels, widths = len(window), len(widths), list(widths)
    for name, given, known in (("architecture", architecture, Architecture), ("norm", norm, NormName)):
        if given not in get_args(known):
            raise InputError(f"{name} is {given!r}; choose one of {', '.join(get_args(known))}")
    if dims not in (2, 3) or levels < 2 or min(widths) < 1:
        raise InputError(f"the window has {dims} sides (two or three) and there are {levels} widths (two or more, each 1 or more)")
    if architecture == "unet" and levels < 3:
        raise InputError(f"widths are {tuple(widths)}; unet has three levels or more")
    if architecture == "basic-unet" and levels != _BASIC_LEVELS:
        raise InputError(f"widths are {tuple(widths)}; basic-unet has {_BASIC_LEVELS} levels, such as 16,16,32,64,128")
    if architecture == "segresnet" and widths != [widths[0] << level for level in range(levels)]:
        raise InputError(f"widths are {tuple(widths)}; segresnet doubles them from level to level, such as 8,16,32")
    groups = {"num_groups": _groups(widths)}
    named = {"instance": ["INSTANCE", {"affine": True}], "group": ["GROUP", groups], "batch": ["BATCH", {}]}[norm]
    stride = _PATCH if architecture == "unetr" else 2 ** (levels - 1)
    # Normalisation by instances needs two cells at the coarsest level.
    least = stride if architecture == "unetr" else 2 * stride
    if any(side % stride or side < least for side in window):
        raise InputError(
            f"window is {tuple(window)}; each side must be {least} or more and a multiple of {stride}, which {architecture} with these "
            "widths divides it by"
        )
    common = {"spatial_dims": dims, "in_channels": channels, "out_channels": classes}
    if architecture == "unet":
        return {
            "_class_name": "DynUNet", **common, "kernel_size": [3] * levels, "strides": [1, *[2] * (levels - 1)],
            "upsample_kernel_size": [2] * (levels - 1), "filters": widths, "norm_name": named,
        }  # fmt: skip
    if architecture == "attention-unet":
        return {"_class_name": "AttentionUnet", "_norm": named, **common, "channels": widths, "strides": [2] * (levels - 1)}
    if architecture == "segresnet":
        blocks = {"blocks_down": [1] * levels, "blocks_up": [1] * (levels - 1)}
        return {"_class_name": "SegResNet", **common, "init_filters": widths[0], "norm": named, **blocks}
    if architecture == "basic-unet":
        return {"_class_name": "BasicUNet", **common, "features": [*widths, widths[0]], "norm": named}
    hidden = 4 * widths[-1]
    return {
        "_class_name": "UNETR", **common, "img_size": list(window), "feature_size": widths[0], "hidden_size": hidden, "mlp_dim": 2 * hidden,
        "num_heads": 4, "norm_name": named,
    }  # fmt: skip


def _groups(widths: Sequence[int]) -> int:
    """The most groups of at least four channels that divide all widths."""
    return max(number for number in range(1, max(2, min(widths) // 4 + 1)) if all(width % number == 0 for width in widths))


def known_networks() -> dict[str, str]:
    """Import strings of the classes that a folder may hold, by their names."""
    layout = pipeline_layout(PIPELINE)
    return {network.class_name: network.target for network in layout.parts["network"]} if layout else {}


def make_network(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config with new weights: pictures [B, C, *sides] to logits [B, K, *sides].

    Raises:
        MissingError: MONAI isn't installed.
        InputError: an unknown class, or arguments that it refuses.

    Example:
        >>> network = make_network(network_config("unet", channels=1, classes=2, window=(16, 16), widths=(4, 4, 8)))
        >>> tuple(network(torch.zeros(3, 1, 16, 16)).shape)
        (3, 2, 16, 16)
    """
    name = str(config.get("_class_name"))
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    targets = known_networks()
    if name not in targets:
        raise InputError(f"the network is a {name}; calotype reads {', '.join(targets)}")
    try:
        made: nn.Module = resolve(targets[name])(**arguments)
    except ImportError:
        raise MissingError('segmentation needs MONAI; install it: pip install "calotype[medical]"') from None
    except (TypeError, ValueError) as error:
        raise InputError(f"the network's config is refused by MONAI's {name} ({error}); {AGAIN}") from None
    if name == "DynUNet":
        _drop_second_names(made)
    if name == "AttentionUnet" and "_norm" in config:
        _replace_batch_norm(made, config["_norm"], int(arguments["spatial_dims"]))
    return made


def _drop_second_names(network: nn.Module) -> None:
    """MONAI registers each block of a DynUNet twice; a moving average would move its weights twice, and files would hold them twice."""
    for name in ("input_block", "downsamples", "bottleneck", "upsamples"):
        delattr(network, name)


def _replace_batch_norm(network: nn.Module, norm: Sequence[Any], spatial_dims: int) -> None:
    """MONAI's attention UNet has batch normalisation alone; give it the one that the other networks take as an argument."""
    from monai.networks.layers.utils import get_norm_layer

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                module.register_module(name, get_norm_layer(tuple(norm), spatial_dims, child.num_features))


def save_segmenter(folder: Path, network: nn.Module, config: Mapping[str, Any], facts: PictureFacts, *, rounded: bool = False) -> None:
    """Write the folder: `config` made the network. `rounded` stores 8 bits a weight, otherwise float32."""
    from safetensors.torch import save_file

    part = folder / "network"
    part.mkdir(parents=True, exist_ok=True)
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = network.state_dict()
    if rounded:
        save_quantized(tensors, part / f"model.{INT8}.safetensors")
    else:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part / "model.safetensors")
    name = str(config["_class_name"])
    index = {"_class_name": PIPELINE, **facts.entries(), "network": ["monai", name]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_segmenter_network(part: Part, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, nn.Module]:
    """The part as loading wants it. See `load_part`."""
    return {part.name: load_part(part).to(dtype).eval().requires_grad_(False)}


def load_part(part: Part) -> nn.Module:
    """The network of a folder in float32.

    Raises:
        MissingError: MONAI isn't installed.
        InputError: config and weights don't belong together.
    """
    from safetensors.torch import load_file

    config = read_json(part.folder / "config.json")
    refuse_larger(part.folder, part.weights, lambda: make_network(config))
    network = make_network(config)
    if part.variant == INT8:
        tensors = load_quantized(part.weights[0])
    else:
        tensors = {name: value for path in part.weights for name, value in load_file(path).items()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{part.folder}: config.json and weights don't belong together ({reason}); {AGAIN}") from None
    return network.float()
