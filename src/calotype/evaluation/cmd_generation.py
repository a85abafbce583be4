"""What CMD's two diffusion models make: clips for captions, judged by the world's recogniser and by a distance between sets of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import Events
from calotype.evaluation.cmd_reconstruction import BATCH, ReconstructionExperiment, reconstructed
from calotype.evaluation.experiment import pieces, run_batches
from calotype.evaluation.moving_clips import MovingClip
from calotype.evaluation.report import Role
from calotype.metrics import Interval
from calotype.metrics.frechet import GROUPS, frechet_distance, frechet_interval
from calotype.world.moving import judge_clips

Maker = Callable[[Sequence[MovingClip], int, Events], Tensor]
"""Makes latents of clips for the captions of some scenes with the noise of that seed."""


def shuffled(items: Sequence[MovingClip]) -> list[MovingClip]:
    """Each item's place taken by another one: the next."""
    return [*items[1:], *items[:1]]


class GenerationExperiment(ReconstructionExperiment):
    """Rows of clips that were made for captions.

    Args:
        model: of content frames and motion.
        method: `CMD` with its settings.
        features: clips [B, F, 3, H, W] to features [B, numbers].
        reference: true clips that distances are taken to.
        seed: of scenes and noise.
        events: hears one step per clip and row.
    """

    def __init__(self, model: Any, method: Any, features: Callable[[Tensor], Tensor], reference: Tensor, seed: int, events: Events) -> None:
        super().__init__(model, seed, events)
        self.method, self._features = method, features
        self.reference = self._features_of(reference)
        self.features: dict[str, Tensor] = {}

    def _features_of(self, clips: Tensor) -> Float[Tensor, "clips numbers"]:
        return torch.cat([self._features(part) for part in clips.split(BATCH)])

    def judged(self, variant: str, role: Role, items: Sequence[MovingClip], make: Maker) -> Tensor:
        """A row: the clips of all items, judged against their captions."""
        made, spent = [], []

        def clips(some: Sequence[MovingClip], events: Events) -> Iterable[Tensor]:
            pixels: Tensor = self.model.decode_clips(make(some, self.seed + some[0].index, events))
            return pixels

        for _, clip, cost in run_batches(pieces(items, BATCH), clips, self.events):
            made.append(clip)
            spent.append(cost)
        found = torch.stack(made)
        self.features[variant] = self._features_of(found)
        self._add_judged(variant, role, items, found, spent)
        return found

    def _add_judged(
        self, variant: str, role: Role, items: Sequence[MovingClip], clips: Tensor, spent: Sequence[dict[str, float]] | None = None
    ) -> None:
        costs = spent or [{}] * len(items)
        agreed = [seen.agrees(item.scene) for seen, item in zip(judge_clips(clips), items, strict=True)]
        self.add(variant, role, [{**{k: float(v) for k, v in one.items()}, **cost} for one, cost in zip(agreed, costs, strict=True)])
        if variant in self.features:
            found = frechet_interval(self.features[variant], self.reference)
            self.rows[-1] = replace(self.rows[-1], metrics={**self.rows[-1].metrics, "clip_distance": found.corrected})

    def generations(self, items: Sequence[MovingClip]) -> None:
        """The ladder from the true clip to everything made, and what is lost without captions or content tokens."""
        self.judged("image-autoencoder", "ceiling", items, lambda some, seed, events: self.latents(some))
        self.judged("reconstruction", "ceiling", items, lambda some, seed, events: reconstructed(self.model, self.latents(some)))
        self.judged("true-content", "ablation", items, self.from_true_content)
        clips = self.judged("method", "method", items, self.all_made)
        self._add_judged("shuffled-captions", "ablation", shuffled(items), clips)
        self.judged("other-content-tokens", "ablation", items, self.from_other_content)

    def _decoded(self, content: Tensor, motion: Any) -> Tensor:
        decoded: Tensor = self.model.join(content, motion)
        return decoded

    def _true_content(self, items: Sequence[MovingClip]) -> Float[Tensor, "batch channels height width"]:
        content: Tensor = self.model.split(self.latents(items)).content
        return content

    def _motion(self, items: Sequence[MovingClip], content: Tensor, seed: int, events: Events, model: Any = None) -> Any:
        return self.method.motions(model or self.model, [item.scene.caption for item in items], content, seed=seed, events=events)

    def from_true_content(self, items: Sequence[MovingClip], seed: int, events: Events, *, blind: Any = None) -> Tensor:
        """Motion for the content frames of true clips; of `blind`, a model with another motion network, where it is given."""
        content = self._true_content(items)
        return self._decoded(content, self._motion(items, content, seed, events, blind))

    def from_other_content(self, items: Sequence[MovingClip], seed: int, events: Events) -> Tensor:
        """The motion model sees another clip's content frame than the decoder; the caption stays."""
        content = self._true_content(items)
        return self._decoded(content, self._motion(items, content.roll(1, 0), seed, events))

    def all_made(self, items: Sequence[MovingClip], seed: int, events: Events) -> Tensor:
        """Clips from captions alone."""
        content = self.method.content(self.model, [item.scene.caption for item in items], seed=seed, events=events)
        return self._decoded(content, self._motion(items, content, seed, events))

    def further(self, farther: str, nearer: str) -> Interval:
        """By how much one row's clips are further from true ones than another's, without the part that falls with their number.

        The interval of 90 % is that of the normal distribution, with the jackknife's error: each tenth of the scenes is left out of both
        rows, and another tenth of the true clips, in turn.
        """
        rows = [self.features[name] for name in (farther, nearer)]

        def difference(left_out: int | None) -> float:
            kept = [part if left_out is None else part[torch.arange(len(part)) % GROUPS != left_out] for part in (*rows, self.reference)]
            return frechet_distance(kept[0], kept[2]) - frechet_distance(kept[1], kept[2])

        whole, parts = difference(None), torch.tensor([difference(group) for group in range(GROUPS)], dtype=torch.float64)
        value = GROUPS * whole - (GROUPS - 1) * float(parts.mean())
        error = 1.645 * float((parts - parts.mean()).square().sum() * (GROUPS - 1) / GROUPS) ** 0.5
        return Interval(value, value - error, value + error)
