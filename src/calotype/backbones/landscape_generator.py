"""The role `LandscapeGenerator`: a picture to a generator's w+ and feature, and from these to its moving regions and motion (StyleCineGAN).

model_index.json    `_class_name` is `LandscapeGeneratorPipeline`
generator           `calotype.backbones.stylegan2.StyleGAN2Generator`
encoder             `calotype.backbones.feature_style_encoder.FeatureStyleEncoder`, or `OfficialFeatureStyleEncoder`
pixel_classifier    `calotype.backbones.pixel_classifier.PixelClassifier`, or nothing: then masks are given
motion              `calotype.backbones.motion_network.MotionNetwork`, or nothing: then the motion is given
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.components import Components
from calotype.backbones.motion_network import MotionNetwork
from calotype.backbones.pixel_classifier import PixelClassifier, without_specks
from calotype.backbones.quantized import save_quantized
from calotype.backbones.source import CheckpointSource
from calotype.backbones.stylegan2 import StyleGAN2Generator, layer_size
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image

PIPELINE = "LandscapeGeneratorPipeline"
STATIC, SKY, WATER = 0, 1, 2
"""Classes of `LandscapeGenerator.predict_mask`."""
SEMANTIC_SIZE = 16
"""Pixels along a side of the coarsest layers that masks are told from."""
MASK_SIZE = 512
"""Pixels along a side of the mask of a larger generator."""
REFINING_RATE = 0.1
"""Learning rate of a refinement over the feature's deviation."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture as the generator knows it."""

    w_plus: Float[Tensor, "1 rows numbers"]
    feature: Float[Tensor, "1 channels height width"]
    """What the encoder's layer receives."""
    reconstruction: Image


class LandscapeGenerator:
    """A `LandscapeGeneratorPipeline` folder. Everything runs in float32, as the generator's features outgrow float16.

    Raises:
        InputError: the parts don't belong together.
    """

    role = "LandscapeGenerator"

    def __init__(self, source: CheckpointSource, modules: Mapping[str, Any], *, device: torch.device) -> None:
        self.source, self.name, self.device = source, source.name, device
        self.modules = {name: module.float() for name, module in modules.items()}
        generator, encoder = self.generator, self.encoder
        wanted = {"size": generator.config.size, "num_styles": generator.num_styles, "style_dim": generator.config.style_dim}
        for name, value in wanted.items():
            if encoder.config[name] != value:
                raise InputError(f"the generator's {name} is {value} and the encoder's {encoder.config[name]}; they don't belong together")
        channels = generator.input_shape(self.feature_layer)[0]
        if encoder.config.feature_channels != channels:
            raise InputError(
                f"layer {self.feature_layer} of the generator receives {channels} channels and the encoder gives "
                f"{encoder.config.feature_channels}; they don't belong together"
            )

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(found.source, found.modules, device=found.device)

    @property
    def generator(self) -> StyleGAN2Generator:
        """Makes pictures."""
        network: StyleGAN2Generator = self.modules["generator"]
        return network

    @property
    def encoder(self) -> Any:
        """Inverts pictures."""
        return self.modules["encoder"]

    @property
    def feature_layer(self) -> int:
        """Which layer of the generator receives an inversion's feature."""
        layer: int = self.encoder.config.feature_layer
        return layer

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        side: int = self.generator.config.size
        return side, side

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return dict(self.modules)

    def invert(self, image: Image, *, refine_steps: int = 0) -> Inversion:
        """w+ and feature of a picture of the model's size.

        Args:
            image: values in [0, 1].
            refine_steps: steps of Adam on the feature, which brings the reconstruction nearer to the picture; 0 for the encoder's own.

        Raises:
            ShapeError: a picture of another size.
            InputError: a negative number of steps.
        """
        if refine_steps < 0:
            raise InputError(f"refine_steps is {refine_steps}; 0 or more are expected")
        pixels = self._pixels(image)
        with torch.no_grad():
            w_plus, feature = self.encoder(pixels)
        if refine_steps:
            feature = self._refined(pixels, w_plus, feature, refine_steps)
        with torch.no_grad():
            made = self.generator(w_plus, {self.feature_layer: feature})
        return Inversion(w_plus, feature, Image((made[0] * 0.5 + 0.5).clamp(0, 1).cpu()))

    def _refined(self, pixels: Tensor, w_plus: Tensor, feature: Tensor, steps: int) -> Tensor:
        """The feature whose picture was nearest on the way."""
        rate = REFINING_RATE * float(feature.std())
        best, least = feature, float("inf")
        changed = feature.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([changed], lr=rate)
        # What lies below the feature's layer doesn't depend on it, but its RGB does belong to the picture.
        with torch.enable_grad():
            for step in range(steps + 1):
                loss = (self.generator(w_plus, {self.feature_layer: changed}) - pixels).square().mean()
                if loss.item() < least:
                    best, least = changed.detach().clone(), loss.item()
                if step < steps:
                    optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        return best

    @torch.no_grad()
    def pixel_features(self, inversion: Inversion) -> list[Float[Tensor, "1 channels height width"]]:
        """What the pixel classifier sees: the feature, and what every layer from 16 px on gives, each at its own resolution.

        The official code takes the layers from the feature on; those below it, which only w+ decides, know best what is what.
        """
        found = self.generator.collect(inversion.w_plus, {self.feature_layer: inversion.feature}).layers
        return [inversion.feature, *(values for layer, values in found.items() if layer_size(layer) >= SEMANTIC_SIZE)]

    def predict_mask(self, inversion: Inversion) -> Int[Tensor, "height width"]:
        """The class of each pixel, `STATIC`, `SKY` or `WATER`, at the model's size, at most 512 px; small specks take what surrounds them.

        Raises:
            InputError: the checkpoint has no pixel classifier.
        """
        classifier: PixelClassifier = self._part("pixel_classifier", "give a mask")
        side = min(self.size[0], MASK_SIZE)
        return without_specks(classifier.classes(self.pixel_features(inversion), (side, side))[0].cpu())

    @torch.no_grad()
    def predict_motion(self, image: Image) -> Float[Tensor, "2 height width"]:
        """Pixels a frame at the motion network's own size, x to the right and y down, not yet held at 0 where nothing moves.

        Raises:
            InputError: the checkpoint has no motion network.
            ShapeError: a picture of another size than the model's.
        """
        network: MotionNetwork = self._part("motion", "give a motion")
        side = network.config.size
        pixels = functional.interpolate(self._pixels(image), size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        motion: Tensor = network(pixels)[0].cpu()
        return motion

    def _part(self, name: str, remedy: str) -> Any:
        if name not in self.modules:
            raise InputError(
                f"{self.name} has no {name.replace('_', ' ')}: {remedy}, or take a checkpoint that has one, such as toy-landscape"
            )
        return self.modules[name]

    def _pixels(self, image: Image) -> Float[Tensor, "1 3 height width"]:
        if image.size != self.size:
            raise ShapeError(f"a picture of {list(image.size)} px was given; {self.name} takes {list(self.size)}: resize or cut it")
        return image.pixels[None].to(self.device) * 2 - 1


def save_parts(
    folder: Path, *, generator: nn.Module, encoder: Any, pixel_classifier: nn.Module | None = None, motion: nn.Module | None = None,
    rounded: bool = False,
) -> None:  # fmt: skip
    """Write the folder. `rounded` stores the weights in 8 bits, otherwise float32."""
    from calotype.backbones.folder import ROUNDED

    given: dict[str, Any] = {"generator": generator, "encoder": encoder, "pixel_classifier": pixel_classifier, "motion": motion}
    parts = {name: network for name, network in given.items() if network is not None}
    for name, network in parts.items():
        if rounded:
            network.save_config(folder / name)
            save_quantized(network.state_dict(), folder / name / ROUNDED)
        else:
            network.save_pretrained(folder / name, safe_serialization=True)
    index = {"_class_name": PIPELINE, **{name: ["calotype", type(network).__name__] for name, network in parts.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
