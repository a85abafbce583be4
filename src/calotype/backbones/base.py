"""What the adapters share: a checkpoint's noise levels, and the denoiser that runs the branches of a guidance in batches."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.components import Components
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.source import CheckpointSource
from calotype.core.denoiser import Condition, Denoiser
from calotype.core.guidance import BranchInputs, Guidance
from calotype.core.schedule import SamplerName
from calotype.core.stepping import StepContext, StepControl, check_bound
from calotype.errors import InputError, ShapeError

Same = TypeVar("Same", bound="DiffusionModel")


@runtime_checkable
class Observer(Protocol):
    """Sees every call of a model's network."""

    def begin(self, x: Tensor, step: StepContext) -> None:
        """Hear of the call to come, with the noisy rows [B, ...] and the step that it belongs to."""
        ...

    def end(self, x0: Tensor) -> None:
        """Hear what it gave: the estimates of x0, [B, ...]."""
        ...


class DiffusionModel(ABC):
    """Base of the two diffusion roles. Holds networks, changes nothing about them."""

    role: str
    """What it is for, as its layout says."""
    stands_for: tuple[str, ...] = ()
    """Further roles that it can be used in."""
    observer: Observer | None = None

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

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(
            found.source,
            found.modules,
            scheduler=found.scheduler,
            scheduler_class=found.scheduler_class,
            device=found.device,
            max_rows=found.max_rows,
            decode_chunk_size=found.decode_chunk_size,
            **cls.extra_arguments(found),
        )

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        """What a subclass takes beside the arguments of all, from the checkpoint's small files."""
        return {}

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

    def observed(self: Same, observer: Observer) -> Same:
        """The same model (same weights) whose calls are seen by an observer; results stay the same."""
        other = copy.copy(self)
        other.observer = observer
        return other

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

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance, *, control: StepControl | None = None) -> BranchDenoiser:
        """A denoiser over labelled branches.

        Args:
            conditions: a condition for each label of the guidance; others are allowed and not evaluated.
            guidance: the branches it lists are evaluated in one batch, or `max_rows` at a time.
            control: rules on the network's attention. They are told the step of every call, and that the batch holds the labels, in
                order. Branches that a rule ties together stay in one call; with `max_rows` the others are evaluated apart.

        Raises:
            InputError: a label that the guidance needs has no condition.
        """
        return BranchDenoiser(self, conditions, guidance, control)

    def estimate(self, x: Tensor, sigma: float, condition: Condition, *, step: StepContext | None = None) -> Tensor:
        """x0 for every row of `x` (float32) from one network call; the condition has as many rows as `x`."""
        if self.observer is not None:
            self.observer.begin(x, step or StepContext(sigma=sigma))
        preconditioner = self.model_sampling.preconditioner
        timestep = torch.tensor(preconditioner.timestep(sigma), dtype=torch.float32, device=self.device)
        output = self._network(preconditioner.scale_input(x, sigma), timestep, condition.tensors)
        x0 = preconditioner.estimate(x, output, sigma)
        if self.observer is not None:
            self.observer.end(x0)
        return x0

    @abstractmethod
    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor: ...


class BranchDenoiser:
    """`denoise(x, sigma) -> x0` with guidance; see `DiffusionModel.denoiser`.

    A gradient is kept only where `x` or a condition asks for one.
    """

    def __init__(
        self, model: DiffusionModel, conditions: Mapping[str, Condition], guidance: Guidance, control: StepControl | None = None
    ) -> None:
        absent = [label for label in guidance.labels if label not in conditions]
        if absent:
            raise InputError(f"guidance needs the branches {', '.join(guidance.labels)}, but no condition is given for {', '.join(absent)}")
        self.model = model
        self.conditions = dict(conditions)
        self.guidance = guidance
        self.control = control
        self.calls = 0
        if control is not None:
            control.expect(guidance.labels)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The guided estimate of x0: same shape and device as `x`, float32."""
        return self._guided(StepContext(), x, sigma)

    def at(self, step: StepContext) -> Denoiser:
        """The same, in this step."""
        return partial(self._guided, step)

    def estimates(self, inputs: Mapping[str, Tensor], sigma: float, step: StepContext | None = None) -> dict[str, Tensor]:
        """The estimate of x0 of each branch from its own noisy sample, without guidance.

        Args:
            inputs: noisy samples of one shape by label; the batch holds them in this order.
            sigma: their noise level.
            step: which step the call belongs to.

        Raises:
            ShapeError: a condition has another number of rows than its sample.
            InputError: rules on attention tie more rows together than `max_rows` allows.
        """
        found = self._evaluated(inputs, float(sigma), step or StepContext())
        return {label: estimate.to(inputs[label].device) for label, estimate in found.items()}

    def _guided(self, step: StepContext, x: Tensor, sigma: float) -> Tensor:
        guidance = self.guidance
        inputs = guidance.inputs(x, replace(step, sigma=sigma)) if isinstance(guidance, BranchInputs) else dict.fromkeys(guidance.labels, x)
        return guidance.combine(self._evaluated(inputs, float(sigma), step), float(sigma)).to(x.device)

    def _evaluated(self, inputs: Mapping[str, Tensor], sigma: float, step: StepContext) -> dict[str, Tensor]:
        for label, x in inputs.items():
            if self.conditions[label].rows != x.shape[0]:
                raise ShapeError(
                    f"x has {x.shape[0]} rows and the condition {label!r} has {self.conditions[label].rows}; they must be the same"
                )
        conditions = [self.conditions[label] for label in inputs]
        tensors = [*inputs.values(), *(tensor for condition in conditions for tensor in condition.tensors.values())]
        found: dict[str, Tensor] = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            for call, bound in self._calls(inputs, replace(step, sigma=sigma, roles=tuple(inputs))):
                states = [inputs[label].to(self.model.device, torch.float32) for label in call.roles]
                batches = _batches(states, [self.conditions[label] for label in call.roles], bound)
                estimates = torch.cat([self.model.estimate(part, sigma, condition, step=call) for part, condition in batches])
                self.calls += estimates.shape[0]
                found |= dict(zip(call.roles, torch.split(estimates, [len(state) for state in states]), strict=True))
        return found

    def _calls(self, inputs: Mapping[str, Tensor], step: StepContext) -> Iterator[tuple[StepContext, int | None]]:
        """The branches that are evaluated together, and how many rows of them at once; the control hears of each group in its turn."""
        control, bound = self.control, self.model.max_rows
        if control is None:
            yield step, bound
            return
        tied = control.tied(step)
        if bound is None or not tied or sum(map(len, inputs.values())) <= bound:
            control.begin(step)
            yield step, bound
            return
        for roles in tied:
            check_bound(bound, sum(len(inputs[role]) for role in roles))
        for call in (replace(step, roles=roles) for roles in tied):
            control.begin(call)
            yield call, None


def _batches(states: list[Tensor], conditions: list[Condition], bound: int | None) -> Iterator[tuple[Tensor, Condition]]:
    """Rows of all branches, branch-major, at most `bound` at a time; no row is copied before its turn."""
    rows = states[0].shape[0]
    total = rows * len(states)
    step = bound or total
    for start in range(0, total, step):
        pieces, taken = [], []
        for branch in range(start // rows, (min(start + step, total) - 1) // rows + 1):
            first, last = max(start - branch * rows, 0), min(start + step - branch * rows, rows)
            pieces.append(Condition({name: tensor[first:last] for name, tensor in conditions[branch].tensors.items()}))
            taken.append(states[branch][first:last])
        yield torch.cat(taken), Condition.cat(pieces)


def _positive(value: int | None, name: str) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1, or nothing for no bound")
    return value
