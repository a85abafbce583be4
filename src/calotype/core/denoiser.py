"""The one interface between checkpoints and samplers.

Every noisy tensor is `x = x0 + sigma * n` with `n ~ N(0, I)`, whatever parametrisation the checkpoint was trained with. `Preconditioner`
translates between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.stepping import StepContext
from calotype.errors import InputError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow", "edm"]
"""What a network's output means; the first three are diffusers' `prediction_type`, `edm` is what its EDM schedulers call epsilon."""
Level = float | Tensor
"""A noise level, or one per row: a tensor that broadcasts against the sample, [B, 1, 1, 1] say."""
AnyLevel = TypeVar("AnyLevel", float, Tensor)


class Rates(NamedTuple):
    """A noise level as the shares that a network's input z = signal x0 + noise n is mixed of.

    Training has them where a level isn't drawn as sigma = noise / signal: VP checkpoints by their cumulative alphas, flows by their time.
    They hold pure noise too (a signal of 0), whose sigma is infinite.

    Example:
        >>> Rates.of_flow_time(0.25), Rates.of_flow_time(1.0).signal
        (Rates(signal=0.75, noise=0.25), 0.0)
    """

    signal: Level
    noise: Level

    @staticmethod
    def of_alpha(alpha: Tensor) -> Rates:
        """Of a VP schedule's cumulative alphas: sqrt(alpha) and sqrt(1 - alpha)."""
        return Rates(alpha.sqrt(), (1.0 - alpha).sqrt())

    @staticmethod
    def of_flow_time(time: Level) -> Rates:
        """Of flow times s in [0, 1]: 1 - s and s. The network's timestep is 1000 s."""
        return Rates(1.0 - time, time)


@runtime_checkable
class Denoiser(Protocol):
    """`denoise(x, sigma) -> x0`: the model's estimate of the clean tensor, guidance included; same shape as `x`, float32."""

    def __call__(self, x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]: ...


@runtime_checkable
class StepDenoiser(Denoiser, Protocol):
    """A denoiser that wants to know which step a call belongs to. `sample` and `invert` tell it; a plain function isn't told."""

    def at(self, step: StepContext) -> Denoiser:
        """The denoiser in this step."""
        ...


def at_step(denoise: Denoiser, step: StepContext) -> Denoiser:
    """The denoiser in this step; one that doesn't want to know stays itself.

    Example:
        >>> import torch
        >>> at_step(lambda x, sigma: 0 * x, StepContext(3, 50, 1.0))(torch.ones(1), 1.0)
        tensor([0.])
    """
    return denoise.at(step) if isinstance(denoise, StepDenoiser) else denoise


def in_step(denoise: Denoiser, step: StepContext, ahead: StepContext) -> Denoiser:
    """The denoiser for one step of a sampler from `step.sigma` to `ahead.sigma`: a second call at the level ahead belongs to `ahead`."""
    if not isinstance(denoise, StepDenoiser):
        return denoise
    told = denoise

    def stepped(x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        return told.at(replace(ahead if sigma == ahead.sigma else step, sigma=sigma))(x, sigma)

    return stepped


@dataclass(frozen=True)
class Changed:
    """A denoiser whose estimates are changed, such as by frames that are known already.

    Example:
        >>> import torch
        >>> Changed(lambda x, sigma: x, lambda estimate: estimate.clamp(-1, 1))(torch.tensor([3.0]), 1.0)
        tensor([1.])
    """

    denoise: Denoiser
    change: Callable[[Tensor], Tensor]
    """From the estimate of x0 to the changed one, of the same shape."""

    def __call__(self, x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        """The changed estimate."""
        return self.change(self.denoise(x, sigma))

    def at(self, step: StepContext) -> Changed:
        """The same in this step."""
        return Changed(at_step(self.denoise, step), self.change)


@dataclass(frozen=True)
class Condition:
    """What a checkpoint is told about the picture or clip: named tensors that share their first dimension, one row per sample.

    Example:
        >>> import torch
        >>> both = Condition.cat([Condition({"text": torch.zeros(1, 4)}), Condition({"text": torch.ones(1, 4)})])
        >>> both.rows
        2
    """

    tensors: Mapping[str, Tensor]

    @property
    def rows(self) -> int:
        """The number of samples."""
        return next(iter(self.tensors.values())).shape[0]

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stack the rows of several conditions of the same kind."""
        names = conditions[0].tensors.keys()
        return Condition({name: torch.cat([c.tensors[name] for c in conditions]) for name in names})


@dataclass(frozen=True)
class Preconditioner:
    """How a network sees x = x0 + sigma n, and how its output F becomes an estimate of x0 (Karras et al. 2022, section 5 and table 1).

    | prediction | network's input | target | estimate of x0 |
    | --- | --- | --- | --- |
    | epsilon | x / sqrt(s^2 + 1) | n | x - s F |
    | v_prediction | x / sqrt(s^2 + 1) | (n - s x0) / sqrt(s^2 + 1) | x / (s^2 + 1) - F s / sqrt(s^2 + 1) |
    | sample | x / sqrt(s^2 + 1) | x0 | F |
    | flow | x / (1 + s) | n - x0 | (x - s F) / (1 + s) |
    | edm | x / sqrt(s^2 + d^2) | (s x0 - d^2 n) / (d sqrt(s^2 + d^2)) | (d^2 x + s d sqrt(s^2 + d^2) F) / (s^2 + d^2) |

    d is `sigma_data`, the standard deviation of the latents. `v_prediction` is `edm` with the other sign, and takes d as well; its row is
    that of d = 1. Stable Video Diffusion is `v_prediction` with the timestep 0.25 ln s, Playground 2.5 is `edm` with d = 0.5, CosXL
    `v_prediction` with d = 1.

    Raises:
        InputError: an unknown prediction, or a `sigma_data` that isn't positive, or not 1 where the prediction knows none.

    Example:
        >>> import torch
        >>> p = Preconditioner("v_prediction", edm_timestep)
        >>> x0, n = torch.tensor([2.0]), torch.tensor([-1.0])
        >>> round(p.estimate(x0 + 3.0 * n, p.target(x0, n, 3.0), 3.0).item(), 5)
        2.0
    """

    prediction: Prediction
    timestep: Callable[[float], float]
    """The network's timestep of a noise level: `VPSchedule.t`, `edm_timestep` or `flow_timestep`."""
    sigma_data: float = 1.0
    """Standard deviation of the clean latents that the network was trained with, for `edm` and `v_prediction`."""

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise InputError(
                f"prediction {self.prediction!r} is unknown; this checkpoint must predict one of {', '.join(get_args(Prediction))}"
            )
        if not 0 < self.sigma_data < inf:
            raise InputError(f"sigma_data is {self.sigma_data}; it must be a positive number, such as 0.5 or 1")
        if self.sigma_data != 1 and self.prediction not in ("edm", "v_prediction"):
            raise InputError(
                f"sigma_data is {self.sigma_data} and the prediction {self.prediction}; it goes with edm and v_prediction only"
            )

    def scale_input(self, x: Float[Tensor, "batch ..."], sigma: Level) -> Float[Tensor, "batch ..."]:
        """The sample as the network was trained to see it."""
        if self.prediction == "flow":
            return x / (1 + sigma)
        return x * self._shrink(sigma) if isinstance(sigma, Tensor) else x / self._spread(sigma)

    def estimate(self, x: Float[Tensor, "batch ..."], output: Float[Tensor, "batch ..."], sigma: Level) -> Float[Tensor, "batch ..."]:
        """The estimate of x0, float32. `x` is the sample itself, before `scale_input`."""
        x, output = x.float(), output.float()
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction in ("v_prediction", "edm"):
            data, sign = self.sigma_data, 1 if self.prediction == "edm" else -1
            return x / ((sigma**2 + data**2) / data**2) + output * (sign * sigma * data / self._spread(sigma))
        if self.prediction == "flow":
            return (x - sigma * output) / (1 + sigma)
        return output

    def example(
        self, x0: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch ..."], level: Level | Rates
    ) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
        """One batch of training: what the network sees, and what it should answer (`target`).

        Args:
            x0: clean samples.
            noise: standard normal noise, of the same shape.
            level: sigma, or the `Rates` of the network's input; one per row, or one for all. Rates go with a `sigma_data` of 1.

        Example:
            >>> import torch
            >>> p = Preconditioner("flow", flow_timestep)
            >>> seen, target = p.example(torch.tensor([4.0]), torch.tensor([1.0]), Rates.of_flow_time(0.25))
            >>> seen.item(), target.item()
            (3.25, -3.0)
        """
        seen = level.signal * x0 + level.noise * noise if isinstance(level, Rates) else self.scale_input(x0 + level * noise, level)
        return seen, self.target(x0, noise, level)

    def target(self, x0: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch ..."], level: Level | Rates) -> Float[Tensor, "batch ..."]:
        """What the network should answer for x = x0 + sigma * noise: the regression target of training.

        Raises:
            InputError: rates, and a `sigma_data` that isn't 1.
        """
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - x0
        if self.prediction == "sample":
            return x0
        sign = -1 if self.prediction == "edm" else 1
        if isinstance(level, Rates):
            if self.sigma_data != 1:
                raise InputError(f"rates were given and sigma_data is {self.sigma_data}; give the level as sigma")
            return sign * (level.signal * noise - level.noise * x0)
        return (sign * (self.sigma_data**2 * noise - level * x0)) * (self._shrink(level) / self.sigma_data)

    def _spread(self, sigma: Level) -> Level:
        """Standard deviation of the noisy sample."""
        return (sigma**2 + self.sigma_data**2) ** 0.5

    def _shrink(self, sigma: Level) -> Level:
        """One over it."""
        variance = sigma**2 + self.sigma_data**2
        return variance.rsqrt() if isinstance(variance, Tensor) else variance**-0.5


def edm_timestep(sigma: AnyLevel) -> AnyLevel:
    """0.25 ln sigma: the timestep of EDM networks and of Stable Video Diffusion."""
    return 0.25 * (sigma.log() if isinstance(sigma, Tensor) else log(sigma))


def flow_timestep(sigma: AnyLevel) -> AnyLevel:
    """1000 times the flow time s = sigma / (1 + sigma)."""
    return 1000 * sigma / (1 + sigma)
