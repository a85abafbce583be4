"""The proof of CMD on ground truth: does a content frame and a little motion hold a clip, and are clips made for captions what they say?

The moving world's captions tell what is there, on what ground, and where it goes; its recogniser reads all of that from a clip.

- Reconstruction (`reconstruction@straight`, `@diagonal`, `@crossing`): the code of a clip, decoded, beside the image autoencoder alone and
  the content frame repeated; with one half of the motion alone (the other is averaged over time); with the plain mean or the middle frame
  in the content frame's place, which the decoder never saw, so that these two rows are no trained ablations.
- `content-frame`, `still-clip`: what the content frame holds. `cross-decoded`: one clip's content frame with the motion of the same thing
  going another way; `@other-thing`: with the next clip's motion.
- Generation: `method` makes everything from the caption, `true-content` the motion alone, for the content frame of a true clip. Where
  `method` fails and `true-content` doesn't, the content model is at fault; where both do, the motion model; where `reconstruction` does,
  the autoencoder. `other-content-tokens`: the motion model is shown another clip's content frame; `no-content-tokens`: one that was trained
  without them, where it is given. `shuffled-captions`: the method's clips, judged against another's caption, which is chance.
- `cost@...`: operations and time of a clip beside toy-i2v's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from calotype.backbones.clip_features import clip_features
from calotype.backbones.loading import load
from calotype.core.events import SILENT, Events
from calotype.evaluation.base import Evaluation
from calotype.evaluation.cmd_cost import STEPS, Cost, content_motion_cost, image_to_video_cost
from calotype.evaluation.cmd_generation import GenerationExperiment
from calotype.evaluation.cmd_reconstruction import content_repeated, reconstructed
from calotype.evaluation.experiment import LEAST_SCENES, ResultTable
from calotype.evaluation.moving_clips import FRAMES, moving_clips
from calotype.evaluation.report import Claim, Report
from calotype.methods.cmd import CMD
from calotype.metrics import bootstrap, ratio
from calotype.world import paint
from calotype.world.moving import VARIANTS, judge_accuracy, sample_moving

SLUG = CMD.slug
REFERENCES, REFERENCE_SEED = 256, 500_000
"""True clips that distances are taken to, of another stream than those that are asked for."""
COMPARED = "toy-i2v"
BLIND = "no-content-tokens"


def costs(table: GenerationExperiment, other: Any, frames: Sequence[int] = (FRAMES, 2 * FRAMES)) -> None:
    """Rows of what a clip costs."""
    for number in frames:
        parts = dict(content_motion_cost(table.model, number))
        rows = {"method": sum(parts.values(), Cost(0.0, 0.0)), COMPARED: image_to_video_cost(other, number)}
        for name, found in rows.items():
            line = {"frames": float(number), "steps": float(STEPS), "gigaflop": found.gigaflop, "clip_seconds": found.seconds}
            table.add(f"cost@{name}-{number}", "method" if name == "method" else "baseline", [line])


def cost_ratio(table: ResultTable, frames: int) -> float:
    """Operations of a clip over those of the network that is compared with."""
    ours, theirs = (table.of(f"cost@{name}-{frames}", "gigaflop")[0] for name in ("method", COMPARED))
    return ours / theirs


def claims(table: ResultTable) -> list[Claim]:
    """What is claimed; the bars were fixed before anything was measured."""
    gain = table.difference
    found = [
        Claim.at_least(
            f"reconstruction of {name} motion is at least 6 dB above the content frame repeated",
            gain(f"reconstruction@{name}", f"content-repeated@{name}", "psnr_db"), 6.0,
        )
        for name in ("straight", "diagonal")
    ]  # fmt: skip
    found += [
        Claim.at_least(
            f"diagonal motion: at least 2 dB above {half} alone", gain("reconstruction@diagonal", f"{half}-only@diagonal", "psnr_db"), 2.0
        )
        for half in ("rows", "columns")
    ]
    crossed = [table.of("cross-decoded", f"{whose}_path_error_px") for whose in ("motion", "content")]
    found += [
        Claim.at_most("a still clip's content frame is its frame", table.mean("still-clip", "content_error"), 0.0),
        Claim.at_least("the content frame is the frame where nothing moves: 30 dB", table.mean("content-frame", "static_psnr_db"), 30.0),
        Claim.at_least("ghosts lie where things went: share at least 0.95", table.mean("content-frame", "ghosts_inside"), 0.95),
        Claim.at_most("cross-decoded clips follow the motion's path: at most half the error", bootstrap(ratio, *crossed), 0.5),
    ]
    if not isinstance(table, GenerationExperiment):
        return found
    eight, sixteen = (cost_ratio(table, number) for number in (FRAMES, 2 * FRAMES))
    return [
        *found,
        Claim.at_least("motion for a true content frame is further from true clips than a reconstruction",
                       table.further("true-content", "reconstruction"), 0.0),
        Claim.at_least("everything made is further than that", table.further("method", "true-content"), 0.0),
        Claim.at_least("motion goes where the caption says: at least 0.7 (chance 0.25)", table.mean("method", "direction"), 0.7),
        Claim.at_least("object and colour are the caption's: at least 0.7", table.mean("method", "words"), 0.7),
        Claim.at_most("with shuffled captions directions are chance: at most 0.35", table.mean("shuffled-captions", "direction"), 0.35),
        Claim.at_most("with shuffled captions object and colour are chance: at most 0.1", table.mean("shuffled-captions", "words"), 0.1),
        Claim.at_least("another's content tokens make motion that is further from true clips",
                       table.further("other-content-tokens", "true-content"), 0.0),
        Claim(f"operations of a clip over {COMPARED}'s at equal steps", eight, 1 / 3, eight <= 1 / 3),
        Claim("the same with twice the frames is less", sixteen, eight, sixteen < eight),
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CMDEvaluation(Evaluation):
    """Do a content frame and a little motion hold a clip, and do clips that are made for captions show what they say?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-cmd"
    default_count: ClassVar[int] = 104
    quick_count: ClassVar[int] = 20

    without_content: str = ""
    """A checkpoint whose motion model was trained without content tokens (`calotype train cmd --stage motion --no-content-tokens`), whose
    motion then stands beside."""

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        blind = load(self.without_content, device=device) if self.without_content else None
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), blind=blind, quick=quick, events=events)


def measure(
    model: Any,
    *,
    seed: int,
    count: int,
    split: str = "eval",
    method: CMD | None = None,
    blind: Any = None,
    quick: bool = False,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: of content frames and motion, of clips of 8 frames of 64 px of the moving world.
        seed: of scenes and noise.
        count: clips of each kind.
        split: `eval`, or `tune` for whoever chooses settings.
        method: `CMD.toy()` by default.
        blind: a model whose motion network has no content tokens.
        quick: fewer true clips to compare with, and no verdict.
        events: hears one step per clip and row.
    """
    straight, diagonal, crossing = (moving_clips(split, seed, count, variant) for variant in VARIANTS)
    others = [sample_moving(split=split, seed=seed + REFERENCE_SEED, index=index) for index in range(REFERENCES // (4 if quick else 1))]
    reference = paint(others, num_frames=FRAMES)
    table = GenerationExperiment(model, method or CMD.toy(), clip_features, reference, seed, events)
    events.stage("evaluate cmd", (13 + 5 + (blind is not None)) * count)
    with torch.inference_mode():
        table.generations(straight)
        if blind is not None:
            table.judged(BLIND, "ablation", straight, partial(table.from_true_content, blind=blind))
        table.reconstructions(straight, diagonal, crossing)
        table.content_frames(straight)
        table.cross_decoding(straight)
        costs(table, load(COMPARED, device=str(model.device)))
    judge = judge_accuracy(seed, min(count, 64), split=split)
    notes = [f"the judge on true clips: words {judge['words']:.3f}, directions {judge['direction']:.3f}"]
    if quick or count < LEAST_SCENES:
        few = "a quick look" if quick else f"{count} clips"
        return table.report(SLUG, count, model, notes=[*notes, f"{few}: too few for a verdict; {LEAST_SCENES} clips are the least"])
    loss = table.difference("uniform-mean@straight", "reconstruction@straight", "psnr_db")
    notes.append(f"a plain mean in the content frame's place, not trained for: {loss.value:+.2f} dB ({loss.low:+.2f} to {loss.high:+.2f})")
    found = claims(table)
    if blind is not None:
        further = table.further(BLIND, "true-content")
        found.append(Claim.at_least("a motion model that was trained without content tokens is further from true clips", further, 0.0))
    return table.report(SLUG, count, model, found, notes)


def model_figures(folder: Path | str, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
    """What a model's gates are about: a rebuilt clip against its content frame repeated, and which clips show their captions."""
    model = load(str(folder), device=device)
    items = moving_clips("tune", seed, count or 64)
    table = GenerationExperiment(model, CMD.toy(), clip_features, paint([item.scene for item in items], num_frames=FRAMES), seed, events)
    with torch.inference_mode():
        table.run("reconstruction", "method", items, reconstructed)
        table.run("content-repeated", "baseline", items, content_repeated)
        table.judged("method", "method", items, table.all_made)
    return {
        "psnr_over_repeated_db": table.difference("reconstruction", "content-repeated", "psnr_db").value,
        "direction_accuracy": table.mean("method", "direction").value,
        "words_accuracy": table.mean("method", "words").value,
    }
