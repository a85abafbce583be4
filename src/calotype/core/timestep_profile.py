"""The loss of a diffusion model at each noise level, on clean samples that it wasn't trained on, with fixed noise.

One error has two names: |epsilon - epsilon_hat|^2 = SNR |x0 - x0_hat|^2, where SNR = 1 / sigma^2 is the ratio of signal to noise. So the
profile of any model, whatever it predicts, has both weightings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from calotype.core.denoiser import Denoiser
from calotype.core.events import SILENT, Events
from calotype.core.noise import batch_noise
from calotype.errors import InputError

PROFILE = 1 << 19
"""Stream of the noise."""


@dataclass(frozen=True, eq=False)
class TimestepProfile:
    """Errors by noise level.

    Example:
        >>> known = timestep_profile([(lambda x, sigma: 0 * x, torch.ones(2, 1, 4, 4))], [0.5, 2.0])
        >>> known.mean("sample").tolist(), known.mean("epsilon").tolist()
        ([1.0, 1.0], [4.0, 0.25])
    """

    sigmas: Float64[Tensor, " levels"]
    """Noise levels of x = x0 + sigma n."""
    errors: Float64[Tensor, "levels samples"]
    """Mean squared error of the estimate of x0, for each level and sample."""

    @property
    def snr(self) -> Float64[Tensor, " levels"]:
        """Ratio of signal to noise of each level."""
        return self.sigmas**-2

    def of(self, weighting: str) -> Float64[Tensor, "levels samples"]:
        """The error of x0 (`sample`) or of the noise (`epsilon`), for each level and sample."""
        if weighting not in ("sample", "epsilon"):
            raise InputError(f"the weighting is {weighting!r}; it must be sample or epsilon")
        return self.errors if weighting == "sample" else self.errors * self.snr[:, None]

    def mean(self, weighting: str) -> Float64[Tensor, " levels"]:
        """The same, over the samples."""
        return self.of(weighting).mean(1)


def timestep_profile(
    batches: Iterable[tuple[Denoiser, Tensor]], sigmas: Sequence[float] | Tensor, *, seed: int = 0, draws: int = 1, events: Events = SILENT
) -> TimestepProfile:
    """Measure a denoiser at each level.

    Args:
        batches: clean samples [B, ...] with the denoiser that knows their conditions. The noise of sample i is a function of the seed and
            of i, and the same at every level.
        sigmas: noise levels, above 0.
        seed: of the noise.
        draws: of the noise for each sample and level.
        events: hears a step for each batch and level.

    Raises:
        InputError: no samples, or a level that isn't positive.
    """
    levels = torch.as_tensor(sigmas, dtype=torch.float64).flatten()
    if not len(levels) or not bool((levels > 0).all()) or draws < 1:
        raise InputError(f"{len(levels)} levels and {draws} draws were asked for; levels must be above 0, and draws 1 or more")
    found: list[Tensor] = []
    first = 0
    for denoise, clean in batches:
        total = torch.zeros(len(levels), len(clean), dtype=torch.float64)
        for draw in range(draws):
            normal = batch_noise(clean.shape[1:], seed, len(clean), first, stream=PROFILE + draw).to(clean)
            for place, sigma in enumerate(levels.tolist()):
                estimate = denoise(clean + sigma * normal, sigma)
                total[place] += (estimate - clean).double().square().flatten(1).mean(1).cpu()
                events.step()
                events.check()
        found.append(total / draws)
        first += len(clean)
    if not found:
        raise InputError("no samples were given; a profile needs one at least")
    return TimestepProfile(levels, torch.cat(found, 1))
