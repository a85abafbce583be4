"""The exact denoiser: a perfect model of a known, finite set of pictures or clips, without a network and without training.

If the clean tensor is one of y_1 .. y_K with prior weights p_k, then the estimate of least mean squared error from x = y + sigma * n is
the posterior mean, D(x; sigma) = sum_k softmax_k(log p_k - |x - y_k|^2 / (2 sigma^2)) y_k (Karras et al. 2022, eq. 57). Whatever a method
does wrong on it is the method's own doing: no model that learns these data can do better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Condition
from calotype.errors import InputError, ShapeError

if TYPE_CHECKING:
    from calotype.core.guidance import Guidance
    from calotype.core.stepping import StepControl
    from calotype.imaging.types import Image, Video

# A float32 dot product of two vectors is off by less than this times the product of their lengths (measured: 1e-7 at 10^5 terms).
_DOT_ERROR = 1e-6
# Members whose weight is below exp(-_NEGLIGIBLE) of the greatest don't matter in float32, however many there are.
_NEGLIGIBLE = 35.0


class Bank:
    """K pictures or clips and their prior weights: one condition's world.

    Example:
        >>> import torch
        >>> bank = Bank(torch.tensor([[-1.0], [1.0]]))
        >>> round(bank.posterior(torch.tensor([[0.5]]), sigma=1.0)[0].item(), 4)  # tanh(x / sigma^2)
        0.4621
    """

    def __init__(self, samples: Float[Tensor, "count ..."], log_weights: Float[Tensor, K] | None = None) -> None:
        """`samples` are in the range in which noise is added ([-1, 1] by custom). `log_weights` need not be normalised; equal if left out.

        Raises:
            ShapeError: no sample, or not one weight per sample.
        """
        if samples.dim() < 2 or samples.shape[0] == 0:
            raise ShapeError(f"the bank's samples have shape {tuple(samples.shape)}; expected [K, ...] with K >= 1")
        if log_weights is not None and log_weights.shape != samples.shape[:1]:
            raise ShapeError(f"{tuple(log_weights.shape)} log weights were given for {samples.shape[0]} samples; expected one each")
        flat = samples.detach().float().flatten(1)
        weights = (
            torch.zeros(len(flat), dtype=torch.float64, device=flat.device) if log_weights is None else log_weights.to(flat.device).double()
        )
        self.shape: tuple[int, ...] = tuple(samples.shape[1:])
        """Shape of one sample."""
        self.log_weights: Tensor = torch.log_softmax(weights, 0)
        """Normalised log prior weights, [K] float64."""
        # Members are kept as deviations from their mean: what they share (the background) then costs no precision in the dot products.
        self._mean = flat.mean(0)
        self._deviations = flat - self._mean
        self._squares = _squared_lengths(self._deviations)
        self._longest = float(self._squares.max().sqrt())

    def __len__(self) -> int:
        return len(self._deviations)

    @property
    def samples(self) -> Tensor:
        """The members, [K, *shape] float32."""
        return (self._mean + self._deviations).view(-1, *self.shape)

    @property
    def mean(self) -> Tensor:
        """The prior mean, [*shape]: what the denoiser says where there is nothing but noise."""
        return (self._mean + self.log_weights.exp().float() @ self._deviations).view(self.shape)

    def to(self, device: torch.device) -> Bank:
        """The bank on a device (itself if it is there already)."""
        if self._mean.device == device:
            return self
        moved = object.__new__(Bank)
        moved.shape, moved._longest = self.shape, self._longest
        moved.log_weights, moved._mean = self.log_weights.to(device), self._mean.to(device)
        moved._deviations, moved._squares = self._deviations.to(device), self._squares.to(device)
        return moved

    def posterior(self, x: Float[Tensor, "batch ..."], sigma: float) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, batch]]:
        """The posterior mean [B, *shape] float32, and log sum_k p_k exp(-|x - y_k|^2 / (2 sigma^2)), float64: how well the bank explains x.

        At sigma = 0 the mean is the nearest member.

        Raises:
            ShapeError: `x` is not [B, *shape].
            InputError: `sigma` is negative or not a number.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"x has shape {tuple(x.shape)}; this bank's samples have shape [B, {', '.join(map(str, self.shape))}]")
        if not sigma >= 0:
            raise InputError(f"sigma is {sigma}; it must be 0 or more")
        away = x.float().flatten(1) - self._mean
        lengths = _squared_lengths(away)
        half = (away @ self._deviations.T).double() - 0.5 * self._squares  # -|x - y|^2 / 2 + |x|^2 / 2, about the mean
        variance = max(float(sigma) ** 2, 1e-60)
        error = _DOT_ERROR * float(lengths.max().sqrt()) * self._longest / variance
        logits = self.log_weights + half / variance
        if error > 1e-3:
            logits = self._refined(away, half, logits, variance, error)
        weights = torch.softmax(logits, 1)
        mean = self._mean + weights.float() @ self._deviations
        evidence = torch.logsumexp(logits, 1) - 0.5 * lengths / variance
        return mean.view(x.shape), evidence

    def _refined(self, away: Tensor, half: Tensor, logits: Tensor, variance: float, error: float) -> Tensor:
        """The same logits with every member that may matter computed in float64: at low noise float32 can't tell neighbours apart."""
        logits = logits.clone()
        best = logits.amax(1, keepdim=True)
        for row, candidates in enumerate(logits >= best - (_NEGLIGIBLE + 2 * error)):
            chosen = candidates.nonzero().flatten()
            target = away[row].double()
            for part in torch.split(chosen, 64):
                exact = self._deviations[part].double() @ target - 0.5 * self._squares[part]
                logits[row, part] = self.log_weights[part] + exact / variance
        return logits


def _squared_lengths(rows: Tensor) -> Tensor:
    """Sum of squares of each row in float64, without a float64 copy of them all."""
    return torch.cat([part.double().square().sum(1) for part in torch.split(rows, 256)])


class ExactDenoiser:
    """The posterior mean over banks, one bank per row, behind the interface of every denoiser.

    Example:
        >>> import torch
        >>> two = [Bank(torch.tensor([[-1.0], [1.0]])), Bank(torch.tensor([[5.0]]))]
        >>> denoise = ExactDenoiser(two, rows=[0, 1])
        >>> denoise(torch.tensor([[0.9], [0.9]]), 0.1).tolist()
        [[1.0], [5.0]]
        >>> denoise.calls
        2
    """

    def __init__(self, banks: Bank | Sequence[Bank], rows: Sequence[int] | None = None) -> None:
        """
        Args:
            banks: the banks; all have samples of one shape.
            rows: which bank each row of x is judged by; -1 means all of them together, each bank equally likely. None: the first bank,
                for any number of rows.

        Raises:
            InputError: a row names no bank.
            ShapeError: the banks' samples differ in shape.
        """
        self.banks: tuple[Bank, ...] = (banks,) if isinstance(banks, Bank) else tuple(banks)
        self.rows: tuple[int, ...] | None = None if rows is None else tuple(int(row) for row in rows)
        self.calls = 0
        if not self.banks:
            raise InputError("no bank was given; an exact denoiser needs at least one")
        if len({bank.shape for bank in self.banks}) > 1:
            raise ShapeError(f"the banks' samples have shapes {sorted({bank.shape for bank in self.banks})}; all must have one")
        for row in self.rows or ():
            if not -1 <= row < len(self.banks):
                raise InputError(f"a row asks for bank {row}; there are {len(self.banks)}, counted from 0 (-1 is all of them)")

    def __call__(self, x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        """The posterior mean of each row given its bank, float32.

        Raises:
            ShapeError: another number of rows, or samples of another shape.
        """
        rows = self.rows if self.rows is not None else (0,) * x.shape[0]
        if len(rows) != x.shape[0]:
            raise ShapeError(f"x has {x.shape[0]} rows; this denoiser was made for {len(rows)}")
        self.calls += x.shape[0]
        x = x.float()
        result = torch.empty_like(x)
        for bank in sorted(set(rows)):
            places = torch.tensor([place for place, row in enumerate(rows) if row == bank], device=x.device)
            result[places] = self._pooled(x[places], sigma) if bank < 0 else self.banks[bank].to(x.device).posterior(x[places], sigma)[0]
        return result

    def _pooled(self, x: Tensor, sigma: float) -> Tensor:
        answers = [bank.to(x.device).posterior(x, sigma) for bank in self.banks]
        share = torch.softmax(torch.stack([evidence for _, evidence in answers]), 0).float()
        return torch.stack([mean * s.view(-1, *(1,) * (x.dim() - 1)) for s, (mean, _) in zip(share, answers, strict=True)]).sum(0)


class _Guided:
    """Several exact denoisers, one per branch, combined by a guidance."""

    def __init__(self, branches: Mapping[str, ExactDenoiser], guidance: Guidance) -> None:
        self._branches, self._guidance = branches, guidance

    @property
    def calls(self) -> int:
        """Rows evaluated so far, over all branches."""
        return sum(branch.calls for branch in self._branches.values())

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._guidance.combine({label: self._branches[label](x, sigma) for label in self._guidance.labels}, sigma)


class ExactImageToVideo:
    """An image-to-video model that knows, for each of some pictures, all the clips that may start with it.

    It satisfies `calotype.core.roles.ImageToVideo`, so every method that needs only a denoiser runs on it unchanged. Its latents are the
    pixels, mapped to [-1, 1]. A condition is the number of a bank; the bank of a picture is the one whose clips start with it. Without a
    picture it knows only that the clip is of some bank, each equally likely. Frame rate, motion bucket, prompt and noise augmentation
    don't matter to it.

    Example:
        >>> import torch
        >>> from calotype.core.guidance import NoGuidance
        >>> still = torch.zeros(1, 8, 3, 16, 16)
        >>> model = ExactImageToVideo([Bank(still)])
        >>> model.latent_shape()
        (8, 3, 16, 16)
        >>> denoise = model.denoiser({"cond": Condition({"bank": torch.tensor([0])})}, NoGuidance())
        >>> bool((denoise(torch.randn(still.shape), 80.0) == 0).all())
        True
    """

    def __init__(
        self, banks: Sequence[Bank], *, name: str = "exact", sigma_min: float = 0.01, sigma_max: float = 80.0, tolerance: float = 0.05
    ) -> None:
        """
        Args:
            banks: of clips [K, F, 3, h, w] in [-1, 1]; all members of one bank have the same first frame.
            name: what the model calls itself.
            sigma_min, sigma_max: the ends of its noise levels (data range [-1, 1]).
            tolerance: largest root mean squared difference in pixels [0, 1] between a given picture and the first frame of its bank.

        Raises:
            InputError: no bank.
            ShapeError: not clips, or clips of different shapes.
        """
        self.role = "ImageToVideo"
        self._denoiser = ExactDenoiser(banks)
        self.banks = self._denoiser.banks
        if len(self.banks[0].shape) != 4 or self.banks[0].shape[1] != 3:
            raise ShapeError(f"the banks' samples have shape {self.banks[0].shape}; expected clips [F, 3, h, w]")
        self.name = name
        self.num_frames: int = self.banks[0].shape[0]
        self.size: tuple[int, int] = (self.banks[0].shape[2], self.banks[0].shape[3])
        self.sigma_min, self.sigma_max, self.tolerance = sigma_min, sigma_max, tolerance
        self._firsts = torch.stack([bank.mean[0] for bank in self.banks])

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Karras's levels from sigma_max to sigma_min, then 0: [num_inference_steps + 1] float64."""
        from calotype.core.schedule import karras_sigmas

        return karras_sigmas(num_inference_steps, self.sigma_min, self.sigma_max)

    def condition(
        self,
        image: Image,
        *,
        prompt: str = "",
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        seed: int = 0,
    ) -> Condition:
        """The number of the bank whose clips start with that picture; the picture has the size of the clips.

        Raises:
            ShapeError: a picture of another size.
            InputError: no bank's clips start with it.
        """
        pixels = image.pixels.to(self._firsts) * 2 - 1
        if pixels.shape != self._firsts.shape[1:]:
            raise ShapeError(
                f"the picture is {pixels.shape[-2]}x{pixels.shape[-1]} pixels; this model's clips are {self.size[0]}x{self.size[1]}"
            )
        off = (self._firsts - pixels).square().flatten(1).mean(1).sqrt() / 2
        nearest = int(off.argmin())
        if off[nearest] > self.tolerance:
            raise InputError(
                f"no clip of the exact model starts with this picture (the nearest differs by {off[nearest]:.3f}); "
                "build a bank from the picture's scene"
            )
        return Condition({"bank": torch.tensor([nearest])})

    def unconditional(self, condition: Condition) -> Condition:
        """As many rows that know no picture."""
        return Condition({"bank": torch.full_like(condition.tensors["bank"], -1)})

    def init_noise_sigma(self, sigmas: Tensor) -> float:
        """The clips' own variance is counted in as 1."""
        return float((float(sigmas[0]) ** 2 + 1) ** 0.5)

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance, *, control: StepControl | None = None) -> _Guided:
        """A denoiser of [rows, F, 3, h, w] in [-1, 1] that counts its calls.

        Raises:
            InputError: the guidance asks for a branch that has no condition, or a control is given, which would find no network.
        """
        if control is not None:
            raise InputError("the exact model has no network whose attention could be steered; give a checkpoint")
        missing = [label for label in guidance.labels if label not in conditions]
        if missing:
            raise InputError(f"the guidance asks for {missing}; conditions were given for {sorted(conditions)}")
        return _Guided(
            {label: ExactDenoiser(self.banks, conditions[label].tensors["bank"].tolist()) for label in guidance.labels}, guidance
        )

    def latent_shape(self, num_frames: int | None = None, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """[F, 3, h, w]: that of the banks.

        Raises:
            InputError: another length or size is asked for.
        """
        if (num_frames or self.num_frames) != self.num_frames or (size or self.size) != self.size:
            raise InputError(f"{num_frames} frames of {size} were asked for; the exact model knows {self.num_frames} frames of {self.size}")
        return (self.num_frames, 3, *self.size)

    def encode(self, frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "1 frames 3 height width"]:
        """Pixels in [0, 1] to [-1, 1]."""
        return frames.float()[None] * 2 - 1

    def decode(self, latents: Float[Tensor, "1 frames 3 height width"], fps: float) -> Video:
        """[-1, 1] to a clip, clamped to [0, 1]."""
        from calotype.imaging.types import Video

        return Video(((latents[0].float() + 1) / 2).clamp(0, 1).cpu(), fps)
