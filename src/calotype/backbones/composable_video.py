"""The role `ComposableVideo`: features of objects at places of frames to come, and frames that are known, to a clip (CAGE).

model_index.json    `_class_name` is `ComposableVideoPipeline`; `size` (height, width), `targets` (frames that are made at once), `stride`
                    (of the training's frames) and `feature_layers`
transformer         `calotype.backbones.control_video_network`, or `calotype.backbones.official_cage_network`
control_encoder     `calotype.backbones.control_features.ControlEncoder` or transformers' `Dinov2Model`
vae                 an AutoencoderKL or VQModel
scheduler           diffusers' FlowMatchEulerDiscreteScheduler
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace, PictureLatents
from calotype.backbones.components import Components
from calotype.backbones.control_features import control_features
from calotype.backbones.control_video_network import ControlledVideoTransformer
from calotype.backbones.quantized import save_quantized
from calotype.backbones.source import CheckpointSource
from calotype.errors import InputError

PIPELINE = "ComposableVideoPipeline"
AGAIN = "train the checkpoint again, or fetch it again"


class ComposableVideo(PictureLatents):
    """A `ComposableVideoPipeline` folder.

    Raises:
        InputError: model_index.json lacks a fact or has an impossible one.
    """

    role = "ComposableVideo"

    def __init__(
        self, source: CheckpointSource, modules: Mapping[str, Any], *, device: torch.device, facts: Mapping[str, Any],
        max_rows: int | None = None, decode_chunk_size: int | None = None,
    ) -> None:  # fmt: skip
        self.source, self.name, self.device = source, source.name, device
        self.modules, self.decode_chunk_size = dict(modules), decode_chunk_size
        self.max_rows = max_rows
        self.latent_space = LatentSpace(modules["vae"], device)
        size = facts.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise InputError(f"model_index.json says size {size}; two sides in pixels are expected: {AGAIN}")
        self.size: tuple[int, int] = (size[0], size[1])
        numbers = {name: facts.get(name) for name in ("targets", "stride", "feature_layers")}
        if not all(isinstance(value, int) and value > 0 for value in numbers.values()):
            raise InputError(f"model_index.json says {numbers}; numbers of 1 or more are expected: {AGAIN}")
        self.targets, self.stride, self.feature_layers = (int(facts[name]) for name in numbers)

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(
            found.source, found.modules, device=found.device, facts=found.index, max_rows=found.max_rows,
            decode_chunk_size=found.decode_chunk_size,
        )  # fmt: skip

    @property
    def transformer(self) -> ControlledVideoTransformer:
        """Gives velocities."""
        network: ControlledVideoTransformer = self.modules["transformer"]
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {name: self.modules[name] for name in ("transformer", "control_encoder", "vae")}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network. A sampler's state is float32 whatever it is."""
        kind: torch.dtype = next(self.transformer.parameters()).dtype
        return kind

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of cells that a feature can stand at."""
        rows, columns = self.transformer.config.grid
        return rows, columns

    @torch.no_grad()
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features rows columns"]:
        """Control features of pictures in [0, 1], on the grid."""
        return control_features(self.modules["control_encoder"], images * 2.0 - 1.0, self.grid, self.feature_layers)

    @torch.no_grad()
    def velocity(
        self, latents: Float[Tensor, "batch frames channels height width"], offsets: Int[Tensor, "batch frames"],
        times: Float[Tensor, "batch frames"], features: Float[Tensor, "batch targets numbers rows columns"],
        given: Float[Tensor, "batch targets rows columns"],
    ) -> Float[Tensor, "batch targets channels height width"]:  # fmt: skip
        """noise - x0 of the targets; see `ControlledVideoTransformer.forward`. float32, at most `max_rows` rows at once."""
        device, dtype = self.device, self.dtype
        parts = zip(*(each.split(self.max_rows or len(latents)) for each in (latents, offsets, times, features, given)), strict=True)
        made = [
            self.transformer(x.to(device, dtype), o.to(device), t.to(device), f.to(device, dtype), g.to(device)).float()
            for x, o, t, f, g in parts
        ]
        return torch.cat(made).to(latents.device)


def save_parts(
    folder: Path, *, transformer: nn.Module, control_encoder: Any, vae: Any, size: tuple[int, int], targets: int,
    stride: int, feature_layers: int, rounded: bool = False,
) -> None:  # fmt: skip
    """Write the folder. `rounded` stores the weights in 8 bits, otherwise float16."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from calotype.backbones.folder import ROUNDED

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"transformer": transformer, "control_encoder": control_encoder, "vae": vae}
    for name, network in parts.items():
        if rounded:
            network.save_config(folder / name)
            save_quantized(network.state_dict(), folder / name / ROUNDED)
        else:
            nn.Module.to(network, torch.float16)
            network.save_pretrained(folder / name, safe_serialization=True)
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    library = {name: "transformers" if type(network).__name__ == "Dinov2Model" else "calotype" for name, network in parts.items()}
    index = {
        "_class_name": PIPELINE, "size": list(size), "targets": targets, "stride": stride, "feature_layers": feature_layers,
        "control_encoder": [library["control_encoder"], type(control_encoder).__name__],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["calotype", type(transformer).__name__],
        "vae": ["diffusers", type(vae).__name__],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
