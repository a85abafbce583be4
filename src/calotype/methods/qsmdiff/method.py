"""QSMDiff: quantitative susceptibility mapping with an unconditional diffusion prior of 3-D patches.

Z. Xiong, W. Jiang, Y. Gao, F. Liu, H. Sun: "QSMDiff: Unsupervised 3D Diffusion Models for Quantitative Susceptibility Mapping", arXiv
2403.14070.

The idea: the phase of a gradient echo tells the field f = d * chi that susceptibility makes, and the dipole d vanishes on a cone of
frequencies. A diffusion model of small windows of chi, which has never seen a field, fills in what the field doesn't tell. At every noise
level its windows are joined to an estimate of the *whole* volume, and the whole estimate is corrected by the field: the dipole reaches
across the brain, so a window alone can't be.

    x      <- sigma_0 n on the whole grid
    x0     = fuse(prior(windows of x))               `calotype.core.paths.sliding_windows`, `fuse`
    x0     = M guide(clamp(x0))                      `guidance`: gradient steps, replaced frequencies, or the proximal point
    x      <- step(x, x0), eta 0.5                   `calotype.core.samplers.ddim_step`
    chi    = scale x, less its mean in the brain M

For super-resolution the measurement is coarser than x: c = lower(x0), and x0 += refine(guide(c) - c) (`resolution`).

Results are for research; they are no diagnosis and no basis for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.volume_prior import VolumePrior
from calotype.core import fields
from calotype.core.denoiser import Denoiser
from calotype.core.dipole import DipoleOperator
from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.core.noise import batch_noise, renoiser
from calotype.core.paths import Path, fuse, sliding_windows
from calotype.core.samplers import ddim_step, sample
from calotype.core.schedule import karras_sigmas
from calotype.data.volumes import VolumeLike
from calotype.errors import InputError
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.grid import SAME, WorkingGrid, finer_grid
from calotype.methods.qsmdiff.guidance import Guidance, Guide, Measurement, data_consistency, gradient_steps, proximal
from calotype.methods.qsmdiff.inputs import read_measurement
from calotype.methods.qsmdiff.resolution import Resolution
from calotype.methods.qsmdiff.units import FieldUnit, Quantity

Task = Literal["inversion", "super-resolution", "both", "denoising"]
"""What was measured: a field; a coarse map; a coarse field; a noisy map."""
_NEEDS = "a prior of volumes; take toy-qsm, or a folder that `calotype train qsmdiff --data MAPS --out FOLDER` made"


@dataclass(frozen=True, eq=False)
class SusceptibilityMap:
    """What a run gives: maps in ppm on the field's grid (or `factor` times finer), 0 outside the brain. For research, not for diagnosis."""

    chi: Volume
    """Susceptibility relative to its mean over the mask. With several samples, their mean."""
    residual: Volume
    """The measurement less what chi would have made, on the measurement's grid."""
    std: Volume | None = None
    """Standard deviation over the samples, voxel by voxel; None with one sample. It says how far they agree, not how far they are right."""


@dataclass(frozen=True, kw_only=True)
class QSMDiff(Method):
    """Susceptibility from the local field, with a diffusion prior (Xiong et al. 2024), without training on fields.

    The prior knows voxels of one size and what its training maps hold; a bleeding beyond its `limit` is cut, and what it has never seen may
    come out weaker than it is.

    Example:
        >>> QSMDiff.paper().num_inference_steps, QSMDiff.toy().guidance_mode
        (200, 'proximal')
    """

    slug: ClassVar[str] = "qsmdiff"
    role: ClassVar[str] = "VolumePrior"
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")

    task: Task = "inversion"
    """`inversion`: local field to map; `both`: local field to finer map; `super-resolution`: map to finer map; `denoising`: map to map."""
    factor: tuple[int, int, int] = (1, 1, 1)
    """How many times finer the map gets along each axis of the file; for the tasks `both` and `super-resolution`."""
    num_inference_steps: int = 200
    """Denoising steps."""
    spacing: Literal["model", "karras"] = "model"
    """Noise levels: the checkpoint's own, or evenly spaced in sigma^(1/7) between `sigma_max` and `sigma_min` (Karras et al. 2022)."""
    sigma_max: float = 50.0
    """First level of `karras`, in units of the prior's scale."""
    sigma_min: float = 0.02
    """Last level of `karras` before 0."""
    eta: float = 0.5
    """Fresh noise in each step: 0 is deterministic, 1 is DDPM."""
    guidance_mode: Guidance = "init"
    """How the measurement corrects the estimate: `init` (gradient steps), `dc` (replaced frequencies), `proximal` (weighed by the noise) or
    `none` (nothing does: a sample of the prior)."""
    guidance_scope: Literal["volume", "window"] = "volume"
    """Correct the whole volume, or every window for itself, which is wrong: the dipole reaches further. For comparison."""
    num_guidance_steps: int = 3
    """Gradient steps of `init`, iterations of `proximal` at most."""
    step_size: float = 0.875
    """Of the gradient steps, below 2.25."""
    tv: float = 1e-4
    """Weight of the total variation in `init` and `dc`, for maps in units of 0.15 ppm."""
    threshold: float = 0.2
    """`dc`: |D| from which a frequency is measured well."""
    weight: float = 1.0
    """`dc`: how much of the estimate's frequencies is replaced, 0 to 1 (the official command line's default, 0, is nothing)."""
    noise: float = 0.006
    """`proximal`: standard deviation of the measurement's noise in ppm: 0.002 in a good gradient echo, 0.006 in an EPI or a short echo."""
    strength: float = 1.0
    """`proximal`: weight of the prior against the measurement."""
    padding: float = 1.5
    """Size of the grid that is transformed, over the volume's; 1 lets one side's field come in on the other (official code)."""
    overlap: float = 1 / 6
    """Share of a window that the next one repeats (official code: 8 of 48 voxels)."""
    num_samples: int = 1
    """Maps that are sampled; their mean is the result, and their standard deviation is given too."""

    def __post_init__(self) -> None:
        fields.one_of(self, task=get_args(Task), guidance_mode=get_args(Guidance))
        fields.at_least(self, 0, "tv")
        fields.at_least(self, 1, "num_inference_steps", "num_guidance_steps", "num_samples")
        fields.above(self, 0, "noise", "strength")
        fields.between(self, 0, 1, "eta", "weight")
        fields.between(self, 0, 0.66, "threshold")
        fields.between(self, 0, 0.9, "overlap")
        fields.between(self, 1, 4, "padding")
        if len(self.factor) != 3 or not all(1 <= times <= 8 for times in self.factor):
            raise InputError(f"factor is {self.factor}; it must be three whole numbers from 1 to 8")
        finer = self.task in ("both", "super-resolution")
        if finer != (tuple(self.factor) != (1, 1, 1)):
            what = "needs a factor above 1 along some axis, such as 1 1 2" if finer else "keeps the grid; leave factor at 1 1 1"
            raise InputError(f"task {self.task} {what}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}; 0 < sigma_min < sigma_max must hold")
        if not 0 < self.step_size < (2.25 if self.task in ("inversion", "both") else 1.0):
            raise InputError(f"step_size is {self.step_size}; it must be above 0 and below 2.25 (1 for maps), or the descent diverges")
        if self.guidance_scope == "window" and (self.task != "inversion" or self.guidance_mode == "none"):
            raise InputError("guidance_scope window is for the task inversion with a guidance_mode; leave it at volume")

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers: 200 steps with three gradient steps each, windows that overlap by a sixth."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-qsm, chosen on the tune split."""
        return cls(
            num_inference_steps=20,
            spacing="karras",
            guidance_mode="proximal",
            num_guidance_steps=8,
            strength=0.5,
            tv=0.0,
            eta=1.0,
            overlap=0.25,
            num_samples=2,
        )

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse volumes that don't fit each other, a field in another unit, and a main field without a direction."""
        known: dict[str, Any] = {name: arguments.get(name) for name in ("b0_direction", "field_unit", "te_ms", "b0_tesla")}
        read_measurement(arguments["field"], arguments["mask"], quantity=self._quantity, **known)

    def __call__(
        self,
        model: VolumePrior,
        field: VolumeLike,
        mask: VolumeLike,
        *,
        b0_direction: tuple[float, float, float] | None = None,
        field_unit: FieldUnit | None = None,
        te_ms: float | None = None,
        b0_tesla: float | None = None,
        seed: int = 0,
        events: Events = SILENT,
    ) -> SusceptibilityMap:
        """Find the map.

        Args:
            model: a prior of susceptibility maps, as `calotype.load("toy-qsm")` returns it.
            field: the local field, background removed, in ppm of the main field unless `field_unit` or the file says otherwise; for
                super-resolution and denoising a map in ppm.
            mask: the brain, on the same grid.
            b0_direction: direction of the main field in the axes of the file, any length; by default along the scanner's z axis.
            field_unit: unit of the field; of a map ppm, ppb or fraction.
            te_ms: echo time in milliseconds, for a field in radians.
            b0_tesla: strength of the main field in tesla, for a field in hz, rad/s, radians or tesla.
            seed: of the noise; sample i is the first of seed + i.
            events: hears steps, notes and the metrics `model_calls` and `residual_ppm`, and keeps the state of an interrupted run.

        Returns:
            The map in ppm on the field's grid (or the finer one), what of the field it leaves, and with several samples their spread.

        Raises:
            InputError: the model has another role, a volume is refused, the two don't share a grid, the field's unit isn't known, or
                b0_direction has no length.
        """
        self.refuse_other_roles(model, needs=_NEEDS)
        measured, brain, b0 = read_measurement(
            field, mask, quantity=self._quantity, b0_direction=b0_direction, field_unit=field_unit, te_ms=te_ms, b0_tesla=b0_tesla,
            events=events,
        )  # fmt: skip
        grid = WorkingGrid(brain, measured.affine, spacing=model.spacing, least=model.window, factor=self.factor)
        self._note_grid(model, grid, events)
        direction = grid.direction(b0)
        values, known = grid.enter(measured.values, brain)
        device, dipole = getattr(model, "device", "cpu"), None
        if self._quantity == "field":
            dipole = DipoleOperator(grid.shape, grid.spacing, direction, padding=self.padding, device=device)
        at = Measurement(values.to(device) / model.scale, known.to(device), dipole, model.scale)
        x = self.sample(model, at, grid.factor, seed=seed, events=events)
        return self._result(x * model.scale, model, measured, brain, at, grid, events)

    def sample(
        self,
        model: VolumePrior,
        measured: Measurement,
        factor: tuple[int, ...] = (1, 1, 1),
        *,
        seed: int = 0,
        events: Events = SILENT,
    ) -> Float[Tensor, "samples x y z"]:
        """Maps in units of the prior's scale for one measurement; the method without files and grids."""
        device = measured.values.device
        resolution = Resolution(measured.values.shape, factor, device)
        mask = resolution.divide(measured.mask)
        bound = model.limit / model.scale
        network = model.denoiser()
        guide = None if self.guidance_mode == "none" else self.guide(measured)
        paths = sliding_windows(resolution.fine, model.window, self.overlap)
        if self.guidance_scope == "window":
            prior, guide = self._guided_windows(network, paths, measured, model), None
        else:
            prior = fuse(network, paths, max_rows=model.max_rows)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            x0 = prior(x, sigma).clamp(-bound, bound)
            if guide is not None:
                coarse = resolution.lower(x0)
                x0 = x0 + resolution.refine(guide(coarse, sigma) - coarse)
            return x0 * mask

        sigmas = self.sigmas(model)
        shape = (1, *resolution.fine)
        x = sample(
            denoise,
            float(sigmas[0]) * batch_noise(shape, seed, self.num_samples).to(device),
            sigmas,
            step=ddim_step(self.eta, renoiser(shape, seed, self.num_samples)),
            events=events,
            key="qsmdiff",
        )
        events.metric("model_calls", float(network.calls))
        return x[:, 0]

    def sigmas(self, model: VolumePrior) -> Tensor:
        """Noise levels of the run, [steps + 1]."""
        if self.spacing == "karras":
            return karras_sigmas(self.num_inference_steps, self.sigma_min, self.sigma_max)
        return model.sigmas(self.num_inference_steps)

    def guide(self, measured: Measurement) -> Guide:
        """How the measurement corrects an estimate on its own grid."""
        if self.guidance_mode == "dc":
            return data_consistency(measured, threshold=self.threshold, weight=self.weight, tv=self.tv, size=self.step_size)
        if self.guidance_mode == "proximal":
            return proximal(measured, noise=self.noise, strength=self.strength, steps=self.num_guidance_steps)
        return gradient_steps(measured, steps=self.num_guidance_steps, size=self.step_size, tv=self.tv)

    @property
    def _quantity(self) -> Quantity:
        return "field" if self.task in ("inversion", "both") else "map"

    def _guided_windows(self, network: Denoiser, paths: Sequence[Path], measured: Measurement, model: VolumePrior) -> Denoiser:
        """The prior with every window corrected by its own part of the field, as if nothing lay beyond; the parts travel as channels."""
        whole = measured.dipole
        if whole is None:
            raise InputError("guidance_scope window needs a field")
        dipole = DipoleOperator(model.window, whole.spacing, whole.direction, padding=self.padding, device=whole.device)

        def corrected(x: Tensor, sigma: float) -> Tensor:
            state, values, known = x[:, :1], x[:, 1:2], x[:, 2:]
            part = Measurement(values, known > 0, dipole, measured.scale)
            made = self.guide(part)(network(state, sigma), sigma)
            return torch.cat([made, values, known], dim=1)

        fused = fuse(corrected, paths, max_rows=model.max_rows)
        beside = torch.stack([measured.values, measured.mask.float()])[None]

        def windowed(x: Tensor, sigma: float) -> Tensor:
            return fused(torch.cat([x, beside.expand(len(x), -1, -1, -1, -1)], dim=1), sigma)[:, :1]

        return windowed

    def _note_grid(self, model: VolumePrior, grid: WorkingGrid, events: Events) -> None:
        fine = [size / times for size, times in zip(grid.spacing, grid.factor, strict=True)]
        if grid.resampled:
            events.note(f"field: {model.name} knows voxels of {_mm(model.spacing)}; it works at {_mm(fine)}, and the map is brought back")
        elif any(abs(size / wanted - 1) > SAME for size, wanted in zip(fine, model.spacing, strict=True)):
            events.note(f"field: the map gets voxels of {_mm(fine)}, and {model.name} knows {_mm(model.spacing)}; expect less of it")

    def _result(
        self,
        maps: Float[Tensor, "samples x y z"],
        model: VolumePrior,
        measured: Volume,
        brain: Tensor,
        at: Measurement,
        grid: WorkingGrid,
        events: Events,
    ) -> SusceptibilityMap:
        resolution = Resolution(at.values.shape, grid.factor, maps.device)
        chi = maps.mean(0)
        left = (at.values - at.forward(resolution.lower(chi) / model.scale)) * model.scale
        events.metric("residual_ppm", float(left[at.mask].square().mean().sqrt()))
        fine, inside = measured, brain
        if self.factor != (1, 1, 1):
            inside = Resolution(brain.shape, self.factor).divide(brain)
            fine = finer_grid(measured, self.factor)
        values = grid.leave(chi.cpu(), fine=True)
        values = (values - values[inside].mean()) * inside
        std = None
        if len(maps) > 1:
            std = fine.with_values(grid.leave(maps.std(0).cpu(), fine=True) * inside, "ppm")
        return SusceptibilityMap(fine.with_values(values, "ppm"), measured.with_values(grid.leave(left.cpu()) * brain, "ppm"), std)


def _mm(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in sides) + " mm"
