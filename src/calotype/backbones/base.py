"""What the adapters share: a checkpoint's noise levels, and the denoiser that runs the branches of a guidance in batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.source import CheckpointSource
from calotype.core.denoiser import Condition
from calotype.core.guidance import Guidance
from calotype.core.schedule import SamplerName
from calotype.errors import InputError, ShapeError

Same = TypeVar("Same", bound="DiffusionModel")


class DiffusionModel:
    """Base of the two diffusion roles. Holds networks, changes nothing about them."""

    role: str

    def __init__(
        self,
        source: CheckpointSource,
        modules: Mapping[str, Any],
        *,
        scheduler: Mapping[str, Any],
        scheduler_class: str,
        device: torch.device,
        max_rows: int | None = None,
        decode_chunk_size: int | None = None,
    ) -> None:
        self.source = source
        self.name = source.name
        self.modules = dict(modules)
        """Networks and tokenizers by their names in model_index.json."""
        self.device = device
        self.model_sampling = ModelSampling(scheduler, scheduler_class)
        self.latent_space = LatentSpace(modules["vae"], device)
        self.max_rows = _positive(max_rows, "max_rows")
        self.decode_chunk_size = _positive(decode_chunk_size, "decode_chunk_size")
        sample_size = self.unet.config.sample_size
        height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        self.size: tuple[int, int] = (height * self.latent_space.factor, width * self.latent_space.factor)

    @property
    def unet(self) -> Any:
        """The denoising network, a stock diffusers module."""
        return self.modules["unet"]

    @property
    def vae(self) -> Any:
        """The autoencoder, a stock diffusers module."""
        return self.modules["vae"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {name: module for name, module in self.modules.items() if isinstance(module, nn.Module)}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoising network. The sampler's state is float32 whatever it is."""
        return cast(torch.dtype, self.unet.dtype)

    def with_max_rows(self: Same, max_rows: int | None) -> Same:
        """The same model (same weights) that evaluates at most this many rows at once; None takes all rows of all branches in one batch.

        `model.with_max_rows(1)` needs the least memory.
        """
        return self._with("max_rows", max_rows)

    def with_decode_chunk_size(self: Same, decode_chunk_size: int | None) -> Same:
        """The same model that decodes this many pictures or frames at once; None takes as many as its default bound allows."""
        return self._with("decode_chunk_size", decode_chunk_size)

    def _with(self: Same, option: str, value: int | None) -> Same:
        other = copy.copy(self)
        setattr(other, option, _positive(value, option))
        return other

    def sigmas(self, num_inference_steps: int, *, sampler: SamplerName = "euler") -> Tensor:
        """Noise levels of a run by the checkpoint's own scheduler config: [num_inference_steps + 1], float64, falling, the last one 0.

        A config with `final_sigmas_type` "sigma_min" ends at its lowest level instead of 0. `sampler` is the step's name: where a config
        leaves the spacing open, diffusers' schedulers differ in it.
        """
        return self.model_sampling.sigmas(num_inference_steps, sampler)

    def init_noise_sigma(self, sigmas: Tensor, *, sampler: SamplerName = "euler") -> float:
        """What standard normal noise is multiplied by to start a run, as diffusers' scheduler of that name does it.

        That is sigma_0, or sqrt(sigma_0^2 + 1) where the data's own unit variance is counted in (`leading` spacing, so SVD; DDIM).
        """
        return self.model_sampling.init_noise_sigma(float(sigmas[0]), sampler)

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance) -> BranchDenoiser:
        """A denoiser over labelled branches.

        Args:
            conditions: a condition for each label of the guidance; others are allowed and not evaluated.
            guidance: the branches it lists are evaluated in one batch, or `max_rows` at a time.

        Raises:
            InputError: a label that the guidance needs has no condition.
        """
        return BranchDenoiser(self, conditions, guidance)

    def estimate(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """x0 for every row of `x` (float32) from one network call; the condition has as many rows as `x`."""
        preconditioner = self.model_sampling.preconditioner
        timestep = torch.tensor(preconditioner.timestep(sigma), dtype=torch.float32, device=self.device)
        output = self._network(preconditioner.scale_input(x, sigma), timestep, condition.tensors)
        return preconditioner.estimate(x, output, sigma)

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError


class BranchDenoiser:
    """`denoise(x, sigma) -> x0` with guidance; see `DiffusionModel.denoiser`.

    A gradient is kept only where `x` or a condition asks for one.
    """

    def __init__(self, model: DiffusionModel, conditions: Mapping[str, Condition], guidance: Guidance) -> None:
        absent = [label for label in guidance.labels if label not in conditions]
        if absent:
            raise InputError(f"guidance needs the branches {', '.join(guidance.labels)}, but no condition is given for {', '.join(absent)}")
        self.model = model
        self.conditions = dict(conditions)
        self.guidance = guidance
        self.calls = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The guided estimate of x0: same shape and device as `x`, float32."""
        labels, rows = self.guidance.labels, x.shape[0]
        for label in labels:
            if self.conditions[label].rows != rows:
                raise ShapeError(f"x has {rows} rows and the condition {label!r} has {self.conditions[label].rows}; they must be the same")
        state = x.to(self.model.device, torch.float32)
        needed = [self.conditions[label] for label in labels]
        wants_gradient = x.requires_grad or any(tensor.requires_grad for condition in needed for tensor in condition.tensors.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and wants_gradient):
            parts = [self.model.estimate(part, float(sigma), condition) for part, condition in self._batches(state, needed)]
            estimates = torch.cat(parts)
            self.calls += estimates.shape[0]
            combined = self.guidance.combine(dict(zip(labels, torch.split(estimates, rows), strict=True)), float(sigma))
        return combined.to(x.device)

    def _batches(self, x: Tensor, conditions: list[Condition]) -> Iterator[tuple[Tensor, Condition]]:
        """Rows of all branches, branch-major, at most `max_rows` at a time; no row is copied before its turn."""
        rows = x.shape[0]
        total = rows * len(conditions)
        step = self.model.max_rows or total
        for start in range(0, total, step):
            pieces, taken = [], []
            for branch in range(start // rows, (min(start + step, total) - 1) // rows + 1):
                first, last = max(start - branch * rows, 0), min(start + step - branch * rows, rows)
                pieces.append(Condition({name: tensor[first:last] for name, tensor in conditions[branch].tensors.items()}))
                taken.append(x[first:last])
            yield torch.cat(taken), Condition.cat(pieces)


def _positive(value: int | None, name: str) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1, or nothing for no bound")
    return value
