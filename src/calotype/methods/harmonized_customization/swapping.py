"""Self-attention swap: the main run's queries on the auxiliary run's keys and values, where and when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.attention import AttentionControl, Capture, KeyBias, OutBlend, Rule, Selector, Site, Swap, TokenMaps, sites, when
from calotype.core.denoiser import Denoiser
from calotype.core.guidance import Guidance
from calotype.core.samplers import History, StepOutput, euler_step
from calotype.core.stepping import StepContext

Form = Literal["kv", "concat", "blend", "off"]
Layers = Literal["up", "mid-up", "all"]
Halves = Literal["cond", "both"]
MAIN, AUXILIARY = RUNS = "main", "aux"
_PLACES: dict[str, tuple[str, ...]] = {"up": ("up",), "mid-up": ("mid", "up"), "all": ("down", "mid", "up")}
_MAP_SIDE = 16


@dataclass(frozen=True)
class OnGrid:
    """Self-attention of some places of the network, on one grid."""

    places: tuple[str, ...]
    grid: tuple[int, int] | None = None
    """None takes every grid."""

    def __call__(self, site: Site) -> bool:
        """Whether a site is one of them."""
        return site.kind == "self" and site.place in self.places and self.grid in (None, site.grid)


@dataclass(frozen=True)
class InBothRuns:
    """Guidance within each run: a sample holds the main rows, then the auxiliary ones.

    Example:
        >>> from calotype.core.guidance import NoGuidance
        >>> InBothRuns(NoGuidance()).labels
        ('cond:main', 'cond:aux')
    """

    guidance: Guidance

    @property
    def labels(self) -> tuple[str, ...]:
        """Each guidance branch has the main rows, then the auxiliary ones."""
        return tuple(f"{label}:{run}" for label in self.guidance.labels for run in RUNS)

    def inputs(self, x: Float[Tensor, "rows ..."], step: StepContext) -> dict[str, Float[Tensor, "batch ..."]]:
        """Each run its own rows."""
        main, auxiliary = x.chunk(2)
        return {label: main if label.endswith(f":{MAIN}") else auxiliary for label in self.labels}

    def combine(self, estimates: Mapping[str, Float[Tensor, "batch ..."]], sigma: float) -> Float[Tensor, "rows ..."]:
        """The guided estimates of both runs."""
        found = [{label: estimates[f"{label}:{run}"] for label in self.guidance.labels} for run in RUNS]
        return torch.cat([self.guidance.combine(one, sigma) for one in found])


class PromptWordMaps:
    """A reducer like `TokenMaps` that averages over the tokens of one word, which stands at other places in each picture's prompt.

    Args:
        words: for each row of the role, the places of its word; a row without any gets a flat map.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.words = [list(places) for places in words]
        self._mean = TokenMaps()

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take probabilities [1, heads, queries, keys]."""
        places = self.words[row]
        mean = values[..., places].float().mean(-1, keepdim=True) if places else torch.zeros_like(values[..., :1])
        self._mean(site, mean, context, row, rows, start)

    def combined(self, size: tuple[int, int]) -> Float[Tensor, "batch h w"]:
        """The mean over sites and steps, resized to `size`."""
        return self._mean.combined(size)[:, 0]


@dataclass(eq=False)
class Swapping:
    """Holds the rules of a run, and renews those with masks at every step."""

    control: AttentionControl
    labels: Sequence[str]
    form: Form
    layers: Layers
    start: float
    stop: float
    halves: Halves
    subject_mask: bool
    """Limit the auxiliary keys, and with `blend` the main queries, to where the target's word looks."""
    threshold: float
    latent_size: tuple[int, int]
    main_words: Sequence[Sequence[int]] = ()
    """For each picture, the places of the target's word in the main condition."""
    auxiliary_words: Sequence[Sequence[int]] = ()
    hidden_words: Float[Tensor, "batch 1 length"] | None = None
    """For a visual-only condition that is the whole one with its words masked: 1 for each key that is left out."""
    _maps: dict[str, PromptWordMaps] = field(init=False, default_factory=dict)
    _held: list[Rule] = field(init=False, default_factory=list)
    _seen: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.hidden_words is not None:
            self.control.add(KeyBias(mask=self.hidden_words, rows=f"cond:{AUXILIARY}", select=sites(kind="cross")))
        if self.form == "off":
            return
        if not self.masked:
            for rule in self._rules(None, None, OnGrid(_PLACES[self.layers])):
                self.control.add(rule)
            return
        chosen = self._map_sites()
        for run, words in ((MAIN, self.main_words), (AUXILIARY, self.auxiliary_words)):
            self._maps[run] = PromptWordMaps(words)
            self.control.add(Capture(what="probs", select=chosen, rows=f"cond:{run}", reduce=self._maps[run]))

    @property
    def masked(self) -> bool:
        """Whether masks are made at all."""
        return self.form != "off" and (self.subject_mask or self.form == "blend")

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, history: History | None = None, position: int = 0
    ) -> StepOutput:
        """Euler's step; in each but the first, the rules have the masks of the steps so far."""
        if self.masked and self._seen:
            self._renew()
        self._seen = True
        return euler_step(denoise, x, sigma, sigma_next)

    def _renew(self) -> None:
        for rule in self._held:
            self.control.remove(rule)
        self._held = []
        main, auxiliary = (self._mask(run) for run in RUNS)
        grids = {site.grid for site in self.control.sites if OnGrid(_PLACES[self.layers])(site) and site.grid is not None}
        for grid in sorted(grids):
            fitted = [functional.adaptive_max_pool2d(mask[:, None], grid)[:, 0] for mask in (main, auxiliary)]
            for rule in self._rules(fitted[0], fitted[1], OnGrid(_PLACES[self.layers], grid)):
                self._held.append(self.control.add(rule))

    def _rules(self, main: Tensor | None, auxiliary: Tensor | None, select: Selector) -> list[Rule]:
        steps = when(self.start, self.stop)
        made: list[Rule] = []
        for label in self.labels if self.halves == "both" else ("cond",):
            mode: Literal["kv", "concat"] = "concat" if self.form == "concat" else "kv"
            source, goal = f"{label}:{AUXILIARY}", f"{label}:{MAIN}"
            made.append(Swap(src=source, dst=goal, mode=mode, src_mask=auxiliary, select=select, steps=steps))
            if self.form == "blend" and main is not None:
                made.append(OutBlend(mask=main, rows=goal, select=select, steps=steps))
        return made

    def _map_sites(self) -> Selector:
        """The cross-attention on the grid of 16 x 16, or on the finest coarser one."""
        sides = {max(site.grid) for site in self.control.sites if site.kind == "cross" and site.grid is not None}
        fitting = [side for side in sides if side <= _MAP_SIDE]
        return sites(kind="cross", side=max(fitting) if fitting else min(sides))

    def _mask(self, run: str) -> Float[Tensor, "batch h w"]:
        """1 where the target's words have at least `threshold` of their map's range, averaged over the steps so far; everywhere where the
        map is flat, as it is for words that are left out of the condition."""
        found = self._maps[run].combined(self.latent_size)
        low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
        return (((found - low) / (high - low).clamp(min=1e-8) >= self.threshold) | (high - low < 1e-8)).float()
