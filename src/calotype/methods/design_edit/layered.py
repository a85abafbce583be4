"""One step of DesignEdit: the background with masked keys beside itself without, then the canvas with the layers pasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.attention import AttentionControl, KeyBias, KeyScale, StepContext, sites, when
from calotype.core.denoiser import Denoiser
from calotype.core.noise import RENOISE, batch_noise
from calotype.core.roles import BranchedDenoiser
from calotype.core.samplers import StepOutput, move_to
from calotype.methods.design_edit.regions import dilate
from calotype.methods.design_edit.tasks import Task

Cells = Bool[Tensor, "batch h w"]
"""A mask at the latents' size."""
Masked = Literal["key", "query", "value", "none"]
PLAIN, MASKED, SOURCE, FOREGROUND = ROLES = "plain", "masked", "source", "foreground"
_NO_HISTORY: Mapping[str, Tensor] = {}
_DROPPED = -1e4
"""A score that leaves nothing, and is a number where a whole row has it."""


@dataclass(frozen=True, eq=False)
class Edited:
    """What came out of the model, before anything is put back."""

    latents: Float[Tensor, "batch channels h w"]
    pixels: Float[Tensor, "batch 3 height width"]
    """Decoded, in [0, 1]."""
    calls: int
    """Evaluations of the network."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps, counted from 0, at which something begins or ends."""

    count: int
    mask: range
    """Steps with masked keys."""
    refine_stop: int
    """First step in which the refining mask no longer counts."""
    blend_stop: int
    """The outside of the holes is put back after so many steps."""
    pull_start: int
    """From this step on the background is pulled towards the inversion."""
    fuse: int
    """The layers are pasted after so many steps."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayeredStep:
    """Euler's step on the background until the layers are pasted, on the canvas from then on.

    In steps with masked keys each picture is evaluated twice, and the effect of the mask is amplified:
    x0 = plain + guidance_scale * (masked - plain). Rows without a rule are evaluated once, or not at all where the inversion has them.
    """

    network: BranchedDenoiser
    """Over the four roles; the rules act on its `MASKED` rows."""
    schedule: Schedule
    guidance_scale: float
    pull_rate: float
    source: Sequence[Tensor]
    """The background's inversion: the latents at each level of the run, and the clean ones at its end."""
    foreground: Sequence[Tensor]
    """The composite's inversion; empty where nothing is pasted."""
    hole: Cells
    layers: Cells
    hidden: Cells
    denoised_rows: bool
    """Whether source and foreground are denoised along, as the official code does, instead of being read from the inversion."""
    seed: int

    def __call__(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, history: Mapping[str, Tensor] = _NO_HISTORY, position: int = 0
    ) -> StepOutput:
        """From `sigma` down to `sigma_next`."""
        plan, step = self.schedule, position
        on_canvas = bool(self.foreground) and step >= plan.fuse
        masked = step in plan.mask and (bool(self.hidden.any()) if on_canvas else bool(self.hole.any()))
        rows = {PLAIN: x} if not masked else {MASKED: x} if self.guidance_scale == 1 else {PLAIN: x, MASKED: x}
        copies = {} if on_canvas or not self.denoised_rows else self._copies(history)
        found = self.network.estimates({**rows, **copies}, sigma, StepContext(step, plan.count, sigma))
        x0 = found[MASKED] if len(rows) == 1 and masked else found[PLAIN]
        if len(rows) == 2:
            x0 = x0 + self.guidance_scale * (found[MASKED] - x0)
        x = move_to(x, x0, sigma, sigma_next)
        copies = {name: move_to(old, found[name], sigma, sigma_next) for name, old in copies.items()}
        if not on_canvas:
            x = self._kept(x, copies.get(SOURCE, self._at(self.source, step + 1, x)), step)
            if self.foreground and step + 1 == plan.fuse:
                x = self._pasted(x, copies.get(FOREGROUND, self._at(self.foreground, step + 1, x)), step, sigma_next)
        return StepOutput(x, x0, copies)

    def _at(self, levels: Sequence[Tensor], step: int, like: Tensor) -> Tensor:
        return levels[step].to(like)

    def _copies(self, history: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows that are denoised along: the source, and the foreground where there is one."""
        if history:
            return dict(history)
        return {SOURCE: self.source[0], **({FOREGROUND: self.foreground[0]} if self.foreground else {})}

    def _kept(self, x: Tensor, source: Tensor, step: int) -> Tensor:
        """What lies outside of the holes stays the source; later it is only pulled towards the inversion."""
        outside = (~self.hole)[:, None].to(x)
        if step + 1 <= self.schedule.blend_stop:
            return torch.lerp(x, source, outside)
        if step >= self.schedule.pull_start:
            return x - self.pull_rate * (x - self._at(self.source, step + 1, x)) * outside
        return x

    def _pasted(self, x: Tensor, foreground: Tensor, step: int, sigma: float) -> Tensor:
        """The canvas: the layers over the background, and the layers' mean colour with noise where a hidden part comes to light."""
        canvas = torch.where(self.layers[:, None].to(x.device), foreground, x)
        if not bool(self.hidden.any()):
            return canvas
        share = self.layers[:, None].to(x)
        clean = self._at(self.foreground, len(self.foreground) - 1, x)
        mean = (clean * share).sum((2, 3), keepdim=True) / share.sum((2, 3), keepdim=True).clamp(min=1)
        fresh = batch_noise(tuple(x.shape[1:]), self.seed, len(x), stream=RENOISE + step).to(x)
        return torch.where(self.hidden[:, None].to(x.device), mean + sigma * fresh, canvas)


@dataclass(frozen=True, eq=False)
class CellMasks:
    """A task's masks at the latents' size."""

    hole: Cells
    refine: Cells
    layers: Cells
    hidden: Cells

    @classmethod
    def of(cls, tasks: Sequence[Task], factor: int, radius: int) -> CellMasks:
        """The tasks' masks, grown by `radius` pixels; a cell has `factor` of them on each side."""

        def grown(name: str, by: int) -> Tensor:
            return to_cells(torch.stack([dilate(getattr(task, name), by) for task in tasks]), factor)

        hole, refine, layers = grown("hole", radius), grown("refine", radius // 2), grown("layers", 0)
        # Around a layer the composite is the picture itself, so that its border comes along; but not where the old place is filled.
        filled = to_cells(torch.stack([task.hole & ~task.layers for task in tasks]), factor) > 0.25
        layers = (layers >= 0.5) | ((grown("layers", radius) >= 0.5) & ~filled)
        hidden = (grown("hidden", 0) > 0.25) & ~(grown("layers", 0) >= 0.75)
        return cls(hole >= 0.5, refine >= 0.5, layers & ~hidden, hidden)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is done to the masked rows' self-attention."""

    what: Masked
    drop: bool
    """Masked keys are left out of the attention altogether, instead of being set to 0."""

    def add_all(self, control: AttentionControl, cells: CellMasks, schedule: Schedule, pasting: bool) -> None:
        """The rules of a run: hole and refining mask, then the hole alone, and on the canvas the hidden parts."""
        first, stop = schedule.mask.start, schedule.mask.stop
        background_stop = min(stop, schedule.fuse) if pasting else stop
        wide = min(schedule.refine_stop, background_stop) if bool(cells.refine.any()) else first
        self.add(control, (cells.hole | cells.refine).float(), first, wide)
        self.add(control, cells.hole.float(), max(first, wide), background_stop)
        if pasting:
            self.add(control, cells.hidden.float(), max(first, schedule.fuse), stop)

    def add(self, control: AttentionControl, mask: Float[Tensor, "batch h w"], first: int, stop: int) -> None:
        """A rule for the steps `first` to `stop` - 1; none where nothing is masked."""
        if self.what == "none" or first >= stop or not bool((mask > 0).any()):
            return
        steps, where = when(first, stop), sites(kind="self")
        if self.drop:
            control.add(KeyBias(mask=mask, rows=MASKED, value=_DROPPED, select=where, steps=steps))
        else:
            part: Literal["k", "q", "v"] = {"key": "k", "query": "q", "value": "v"}[self.what]  # type: ignore[assignment]
            control.add(KeyScale(mask=mask, rows=MASKED, what=part, select=where, steps=steps))


def to_cells(mask: Bool[Tensor, "batch height width"], factor: int) -> Float[Tensor, "batch h w"]:
    """Share of each latent cell that lies in the mask.

    Example:
        >>> import torch
        >>> to_cells(torch.tensor([[[True, True, False, False]] * 2]), 2).tolist()
        [[[1.0, 0.0]]]
    """
    return functional.avg_pool2d(mask[:, None].float(), factor)[:, 0]
