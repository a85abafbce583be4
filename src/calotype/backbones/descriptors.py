"""The role `DescriptorModel`: a picture to two maps of features, of a diffusion network and of a vision transformer (Click to Grasp).

model_index.json    `_class_name` is `DescriptorPipeline`
unet, vae, text_encoder, tokenizer, scheduler    as of Stable Diffusion
vit                 a `Dinov2Model`
mixer               optional: a `calotype.backbones.feature_mixer.FeatureMixer`, whose config says which features it takes

Without a mixer the outputs of all levels of the decoder but the finest are taken at a low noise level, each of length 1, one beside the
other (Zhang et al. 2023, arXiv 2305.15347, section 3).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.components import Components
from calotype.backbones.diffusion_features import FeaturePlan, collect
from calotype.backbones.feature_mixer import FeatureMixer, resized
from calotype.backbones.quantized import save_quantized
from calotype.backbones.source import CheckpointSource
from calotype.backbones.text_to_image import StableDiffusion
from calotype.backbones.vision_transformer import Dinov2Encoder, VisionTransformer
from calotype.errors import InputError
from calotype.features.correspondence import joint_pca, normalized
from calotype.imaging.types import Image

PIPELINE = "DescriptorPipeline"
COARSE_TIMESTEP = 100.0
"""Noise level of the features that are taken without a mixer."""
COMPONENTS = 768
"""Channels above which maps are reduced to their joint principal components before they are compared."""
_DIFFUSION = ("unet", "vae", "text_encoder", "tokenizer")


class DiffusionDescriptors:
    """Maps of a diffusion network and of a vision transformer, see `calotype.core.roles.DescriptorModel`."""

    role = "DescriptorModel"

    def __init__(self, diffusion: StableDiffusion, vit: VisionTransformer, mixer: FeatureMixer | None = None) -> None:
        self.diffusion, self.vit, self.mixer = diffusion, vit, mixer
        self.source: CheckpointSource = diffusion.source
        self.name, self.device, self.size = diffusion.name, diffusion.device, diffusion.size
        self.plan = self._plan()

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        parts = {name: found.modules[name] for name in _DIFFUSION}
        diffusion = StableDiffusion(
            found.source, parts, scheduler=found.scheduler, scheduler_class=found.scheduler_class, device=found.device,
            max_rows=found.max_rows, decode_chunk_size=found.decode_chunk_size,
        )  # fmt: skip
        vit = Dinov2Encoder(found.source, {"vit": found.modules["vit"]}, device=found.device)
        return cls(diffusion, vit, found.modules.get("mixer"))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        mixer = {} if self.mixer is None else {"mixer": self.mixer}
        return self.diffusion.networks | mixer | dict(getattr(self.vit, "networks", {}))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the diffusion network."""
        return self.diffusion.dtype

    def maps(self, image: Image) -> dict[str, Float[Tensor, "channels rows columns"]]:
        """Maps that cover the picture, float32 on the CPU: `diffusion` and `vit`.

        The noise, where some is added, depends on the picture: one picture always has the same features, and two pictures don't share it.
        """
        pixels = image.pixels[None]
        taps = collect(self.diffusion, pixels, self.plan, seeds=[zlib.crc32(image.to_numpy().tobytes())])
        if self.mixer is None:
            grid = max(((one.shape[2], one.shape[3]) for one in taps[0]), key=lambda sides: sides[0] * sides[1])
            levels = [normalized(resized(one, grid), 1) for one in taps[0]]
            made = torch.cat(levels, 1) / len(levels) ** 0.5
        else:
            with torch.no_grad():
                made = self.mixer(taps).float()
        return {"diffusion": made[0].cpu(), "vit": self.vit.patch_features(pixels)[0].float().cpu()}

    def _plan(self) -> FeaturePlan:
        if self.mixer is None:
            levels = len(self.diffusion.unet.config.up_block_types)
            return FeaturePlan(layers=tuple(f"up_blocks.{i}" for i in range(max(1, levels - 1))), timesteps=(COARSE_TIMESTEP,))
        config: Any = self.mixer.config
        if not config.layers or not config.timesteps:
            raise InputError(f"{self.name}: mixer/config.json names no layers or no timesteps; train or fetch it again")
        return FeaturePlan(
            layers=tuple(config.layers), timesteps=tuple(config.timesteps), num_inversion_steps=config.num_inversion_steps,
            num_noises=config.num_noises,
        )  # fmt: skip


def describing(model: Any, vit: VisionTransformer | None) -> Any:
    """What describes pictures: a `DescriptorModel` as it is, or a model of Stable Diffusion's kind together with a vision transformer.

    Args:
        model: of the role `DescriptorModel` or `TextToImage`.
        vit: of the role `VisionTransformer`; in place of a `DescriptorModel`'s own, if any.

    Raises:
        InputError: a text-to-image model without a vision transformer, one whose features can't be taken, or a `vit` of another role.
    """
    if vit is not None and not isinstance(vit, VisionTransformer):
        raise InputError(f"{getattr(vit, 'name', 'vit')} is of the role {getattr(vit, 'role', '?')}; vit takes a DINOv2 folder")
    if isinstance(model, DiffusionDescriptors):
        return model if vit is None else DiffusionDescriptors(model.diffusion, vit, model.mixer)
    if getattr(model, "role", "") != "TextToImage":
        return model
    if type(model) is not StableDiffusion:
        raise InputError(f"{model.name} is a {type(model).__name__}; features are taken of Stable Diffusion 1.x and 2.x")
    if vit is None:
        raise InputError(f"{model.name} has no vision transformer beside it; give a DINOv2 folder as vit, such as facebook/dinov2-base")
    return DiffusionDescriptors(model, vit)


def comparable_maps(model: Any, images: Sequence[Image]) -> list[dict[str, Tensor]]:
    """Maps of pictures that are compared with each other; wide ones are reduced to their joint principal components.

    Args:
        model: a `DescriptorModel`.
        images: all of them: the one that is clicked on and those that are searched.
    """
    found = [dict(model.maps(image)) for image in images]
    for kind in found[0] if found else ():
        if found[0][kind].shape[0] > COMPONENTS:
            reduced = joint_pca([maps[kind] for maps in found], COMPONENTS)
            for maps, one in zip(found, reduced, strict=True):
                maps[kind] = one
    return found


def save_descriptors(folder: Path, *, networks: Mapping[str, Any], tokenizer: Any, scheduler: Any, rounded: bool = False) -> None:
    """Write the folder.

    Args:
        folder: is made.
        networks: `unet`, `vae`, `text_encoder`, `vit` and, if there is one, `mixer`.
        tokenizer, scheduler: transformers' and diffusers' objects.
        rounded: store the weights in 8 bits, otherwise as they are.
    """
    from calotype.backbones.folder import ROUNDED

    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": PIPELINE}
    for name, network in networks.items():
        if rounded:
            (network.save_config if hasattr(network, "save_config") else network.config.save_pretrained)(folder / name)
            save_quantized(network.state_dict(), folder / name / ROUNDED)
        else:
            network.save_pretrained(folder / name, safe_serialization=True)
        index[name] = [type(network).__module__.partition(".")[0], type(network).__name__]
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
