"""The role `VolumePrior`: an unconditional diffusion model of volumes, looked at through windows of the size that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.components import Components
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.source import CheckpointSource
from calotype.backbones.volume_network import VolumeNetwork
from calotype.core.roles import CountingDenoiser
from calotype.core.schedule import SamplerName
from calotype.errors import InputError


@runtime_checkable
class VolumePrior(Protocol):
    """An unconditional model of volumes, trained on windows of them: toy-qsm. Windows are [B, 1, *window], in units of `scale`."""

    role: str
    name: str
    """The name that it was loaded by."""
    window: tuple[int, int, int]
    """Voxels that the network sees at once."""
    spacing: tuple[float, float, float]
    """Voxel size in mm that it was trained at."""
    scale: float
    """What is 1 for the network, in `unit`."""
    limit: float
    """Largest absolute value that its maps have, in `unit`."""
    unit: str
    """Of the volumes, such as "ppm"."""
    max_rows: int
    """Windows that the network evaluates at once."""

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Noise levels of a sampling run, [num_inference_steps + 1], float64, falling, the last one 0; in units of `scale`."""
        ...

    def denoiser(self) -> CountingDenoiser:
        """A denoiser of windows."""
        ...


class MonaiVolumePrior:
    """A `VolumePriorPipeline` folder (`calotype.backbones.volume_network`). See `VolumePrior`.

    Raises:
        InputError: the folder's facts are no window that suits the network, voxel size or scale.
    """

    role = "VolumePrior"

    def __init__(
        self,
        source: CheckpointSource,
        modules: Mapping[str, Any],
        *,
        scheduler: Mapping[str, Any],
        scheduler_class: str,
        device: torch.device,
        facts: Mapping[str, Any],
        max_rows: int | None = None,
    ) -> None:
        self.source, self.name, self.device = source, source.name, device
        self.modules = dict(modules)
        self.model_sampling = ModelSampling(scheduler, scheduler_class)
        if max_rows is not None and max_rows < 1:
            raise InputError(f"max_rows is {max_rows}; it must be at least 1, or nothing for the model's own bound")
        self.max_rows = max_rows or 8
        self.window = _three(facts, "window", int)
        self.spacing = _three(facts, "spacing", float)
        self.scale, self.limit = (_positive(facts, name) for name in ("scale", "limit"))
        self.unit = str(facts.get("unit", ""))
        stride = self.network.stride
        if any(side % stride for side in self.window):
            raise InputError(
                f"model_index.json says window {list(self.window)}; each side must be a multiple of {stride}, which the network's levels "
                "divide it by: fetch or save the checkpoint again"
            )

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(
            found.source,
            found.modules,
            scheduler=found.scheduler,
            scheduler_class=found.scheduler_class,
            device=found.device,
            facts=found.index,
            max_rows=found.max_rows,
        )

    @property
    def network(self) -> VolumeNetwork:
        """The denoising network around MONAI's UNet."""
        network: VolumeNetwork = self.modules["unet"]
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {"unet": self.network}

    @property
    def size(self) -> tuple[int, int, int]:
        """What the network was trained at: the window."""
        return self.window

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network. The sampler's state is float32 whatever it is."""
        return next(self.network.parameters()).dtype

    def sigmas(self, num_inference_steps: int, *, sampler: SamplerName = "ddim") -> Tensor:
        """Noise levels of a run by the checkpoint's own scheduler config: [num_inference_steps + 1], float64, falling, the last one 0."""
        return self.model_sampling.sigmas(num_inference_steps, sampler)

    def denoiser(self) -> WindowDenoiser:
        """A denoiser of windows [B, 1, *window] in units of `scale`."""
        return WindowDenoiser(self)


class WindowDenoiser:
    """`denoise(x, sigma) -> x0` of windows; counts them in `calls`."""

    def __init__(self, model: MonaiVolumePrior) -> None:
        self.model, self.calls = model, 0

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch 1 x y z"], sigma: float) -> Float[Tensor, "batch 1 x y z"]:
        """The network's estimate, same shape and device as `x`, float32."""
        preconditioner, device = self.model.model_sampling.preconditioner, self.model.device
        state = x.to(device, torch.float32)
        timestep = torch.full((len(x),), float(preconditioner.timestep(float(sigma))), device=device)
        output = self.model.network(preconditioner.scale_input(state, float(sigma)).to(self.model.dtype), timestep)
        self.calls += len(x)
        return preconditioner.estimate(state, output.float(), float(sigma)).to(x.device)


def _three(facts: Mapping[str, Any], name: str, kind: type) -> tuple[Any, Any, Any]:
    values = facts.get(name)
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) and v > 0 for v in values):
        raise InputError(f"model_index.json says {name} {values!r}; it must be three positive numbers: fetch or save the checkpoint again")
    x, y, z = (kind(value) for value in values)
    return x, y, z


def _positive(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name)
    if not isinstance(value, int | float) or not value > 0:
        raise InputError(f"model_index.json says {name} {value!r}; it must be a positive number: fetch or save the checkpoint again")
    return float(value)
