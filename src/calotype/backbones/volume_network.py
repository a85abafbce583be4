"""MONAI's diffusion UNet for volumes, and the folder that holds one: the network of the role `VolumePrior`.

model_index.json    `_class_name` is `VolumePriorPipeline`; beside the parts: `patch_size`, `window`, `spacing`, `scale`, `limit`, `unit`
unet                config.json with the arguments of MONAI's `DiffusionModelUNet`, and its weights
scheduler           a diffusers scheduler's config
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.building import refuse_larger
from calotype.backbones.folder import INT8, Part
from calotype.backbones.headers import read_json
from calotype.backbones.quantized import load_quantized, save_quantized
from calotype.errors import InputError, MissingError, ShapeError

PIPELINE = "VolumePriorPipeline"
CLASS = "DiffusionModelUNet"


def monai_unet(config: Mapping[str, Any]) -> nn.Module:
    """MONAI's `DiffusionModelUNet` with new weights.

    Raises:
        MissingError: MONAI isn't installed.
        InputError: arguments that it refuses.
    """
    try:
        from monai.networks.nets import DiffusionModelUNet
    except ImportError:
        raise MissingError('volumes need MONAI; install it: pip install "calotype[medical]"') from None
    try:
        made: nn.Module = DiffusionModelUNet(**config)
    except (TypeError, ValueError) as error:
        raise InputError(f"the network's config is refused by MONAI's {CLASS} ({error}); fetch or save the checkpoint again") from None
    return made


class VolumeNetwork(nn.Module):
    """A MONAI UNet that sees every block of `patch_size`^3 voxels as one cell with that many channels.

    Args:
        unet: takes [B, patch_size^3, x, y, z] and timesteps, gives the same shape.
        patch_size: 1 leaves the volume as it is.
    """

    def __init__(self, unet: nn.Module, patch_size: int = 1) -> None:
        super().__init__()
        self.unet, self.patch_size = unet, patch_size

    @property
    def stride(self) -> int:
        """What the sides of a window must be multiples of: blocks of voxels, halved from one of the UNet's levels to the next."""
        halvings = len(getattr(self.unet, "block_out_channels", (None,))) - 1
        return self.patch_size << halvings

    def forward(self, x: Float[Tensor, "batch 1 x y z"], timesteps: Float[Tensor, " batch"]) -> Float[Tensor, "batch 1 x y z"]:
        """The network's output for every voxel.

        Raises:
            ShapeError: a side isn't divisible by `patch_size`.
        """
        if self.patch_size == 1:
            plain: Tensor = self.unet(x, timesteps=timesteps)
            return plain
        from monai.networks.utils import pixelshuffle, pixelunshuffle

        if any(side % self.patch_size for side in x.shape[2:]):
            raise ShapeError(f"a window has the sides {list(x.shape[2:])}; each must be divisible by {self.patch_size}")
        made: Tensor = pixelshuffle(self.unet(pixelunshuffle(x, 3, self.patch_size), timesteps=timesteps), 3, self.patch_size)
        return made


def save_folder(
    folder: Path, network: VolumeNetwork, config: Mapping[str, Any], *, scheduler: Any, pipeline_config: Mapping[str, Any], rounded: bool
) -> None:
    """Write the folder: `config` made the UNet, `scheduler` is a diffusers scheduler, `pipeline_config` are the entries beside the parts.

    `rounded` stores 8 bits a weight (`calotype.backbones.quantized`), otherwise float16.
    """
    from safetensors.torch import save_file

    (folder / "unet").mkdir(parents=True, exist_ok=True)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": CLASS, **config}, indent=2) + "\n", encoding="utf-8")
    tensors = network.unet.state_dict()
    if rounded:
        save_quantized(tensors, folder / "unet" / f"model.{INT8}.safetensors")
    else:
        save_file({name: value.half().contiguous() for name, value in tensors.items()}, folder / "unet" / "model.safetensors")
    index = {
        "_class_name": PIPELINE,
        "patch_size": network.patch_size,
        **pipeline_config,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["monai", CLASS],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_volume_network(part: Part, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, nn.Module]:
    """The part as loading wants it; `index` is the content of model_index.json. See `load_part`."""
    return {part.name: load_part(part, index.get("patch_size", 1)).to(dtype).eval().requires_grad_(False)}


def load_part(part: Part, patch_size: int = 1) -> VolumeNetwork:
    """The network of a folder in float32.

    Raises:
        MissingError: MONAI isn't installed.
        InputError: config, weights and patch size don't belong together.
    """
    from safetensors.torch import load_file

    config = read_json(part.folder / "config.json")
    channels = config.get("in_channels")
    if not isinstance(patch_size, int) or patch_size < 1 or patch_size**3 != channels:
        raise InputError(
            f"model_index.json says patch_size {patch_size!r} and the network has {channels} channels; they must be its cube: "
            "fetch or save the checkpoint again"
        )
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    refuse_larger(part.folder, part.weights, lambda: monai_unet(arguments))
    unet = monai_unet(arguments)
    if part.variant == INT8:
        tensors = load_quantized(part.weights[0])
    else:
        tensors = {name: value.float() for path in part.weights for name, value in load_file(path).items()}
    try:
        unet.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{part.folder}: config.json and weights don't belong together ({reason}); fetch the checkpoint again") from None
    return VolumeNetwork(unet.to(torch.float32), patch_size)
