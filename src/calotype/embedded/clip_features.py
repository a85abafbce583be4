"""The recipe of `toy-clip-features`: the network whose features a Frechet distance of the toy world's clips is taken of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.clip_features import ClipFeatureNetwork, ClipFeatures, load_clip_features
from calotype.backbones.folder import ROUNDED
from calotype.backbones.quantized import save_quantized
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.imaging.files import write_json
from calotype.metrics import frechet_interval
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.sample_grids import save_grid
from calotype.world import PRESETS, paint, recoloured
from calotype.world.moving import DIRECTIONS, SPEEDS, MovingScene, Variant, sample_moving
from calotype.world.scenes.recogniser_accuracy import blur

WORLD = PRESETS["small"]
ANSWERS: Mapping[str, tuple[str, ...]] = {
    "category": tuple(WORLD.categories),
    "colour": tuple(WORLD.colours),
    "ground": tuple(WORLD.backgrounds),
    "direction": (*DIRECTIONS, *(f"{one}-{two}" for one in ("up", "down") for two in ("left", "right"))),
    "speed": ("slow", "fast"),
    "sharpness": ("sharp", "soft", "blurred"),
}
"""The questions, and their answers."""
SHARPNESS = ("sharp", "sharp", "sharp", "soft", "blurred")
"""Of the training clips in turn."""
BLURS: Mapping[str, tuple[float, float]] = {"sharp": (0.0, 0.0), "soft": (0.5, 0.9), "blurred": (1.2, 3.0)}
"""Range of the standard deviation of the blur in pixels."""
VARIANTS: tuple[Variant, ...] = ("straight", "straight", "straight", "diagonal")
"""Of the training clips in turn."""
GOLDEN = 0.618034
"""Multiples of it fill a range evenly."""
BLUR_PX = 1.5
"""Of the clips that a distance must tell from sharp ones."""


def answers_of(scene: MovingScene) -> dict[str, str]:
    """The right answers about the sharp clip of a scene of one object.

    >>> answers_of(sample_moving(split="eval", seed=1, index=0))["direction"]
    'down'
    """
    (thing,) = scene.objects
    path = (thing.motion.dx**2 + thing.motion.dy**2) ** 0.5 * networks.SIZE
    return {
        "category": thing.category,
        "colour": thing.colour,
        "ground": scene.background.name,
        "direction": scene.direction,
        "speed": "slow" if path < sum(SPEEDS) / 2 else "fast",
        "sharpness": "sharp",
    }


def blurred_clips(clips: Float[Tensor, "batch frames 3 height width"], sigma: float) -> Float[Tensor, "batch frames 3 height width"]:
    """Every frame blurred by a Gaussian of that standard deviation in pixels."""
    frames = clips.flatten(0, 1)
    return blur(frames, torch.full((len(frames),), sigma)).view_as(clips)


class TraineeClipFeatures(nn.Module):
    """The loss of one clip: the sum over the questions of the cross entropy."""

    def __init__(self, network: ClipFeatureNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`clip` [B, F, 3, 64, 64] in [0, 1]; `answers` [B, questions] int."""
        logits = self.network(batch["clip"]).values()
        losses = [functional.cross_entropy(one.float(), batch["answers"][:, place], reduction="none") for place, one in enumerate(logits)]
        return torch.stack(losses).sum(0)


class AnsweredClips:
    """Clips of the moving world with their answers, painted as they are needed."""

    count = 1_000_000

    def __init__(self, split: str, seed: int, device: str) -> None:
        self.split, self.seed, self.device = split, seed, device

    def scenes(self, rows: Sequence[int]) -> list[MovingScene]:
        """The scenes of those numbers."""
        return [
            sample_moving(split=self.split, seed=self.seed, index=row, num_frames=networks.FRAMES, variant=VARIANTS[row % len(VARIANTS)])
            for row in rows
        ]

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        scenes, sharpness = self.scenes(rows), [SHARPNESS[row % len(SHARPNESS)] for row in rows]
        right = [answers_of(scene) | {"sharpness": how} for scene, how in zip(scenes, sharpness, strict=True)]
        answers = torch.tensor([[ANSWERS[question].index(one[question]) for question in ANSWERS] for one in right])
        clips = paint(scenes, size=networks.SIZE, num_frames=networks.FRAMES, device=self.device)
        for place, (row, how) in enumerate(zip(rows, sharpness, strict=True)):
            least, most = BLURS[how]
            if most:
                clips[place] = blurred_clips(clips[place : place + 1], least + (most - least) * (row * GOLDEN % 1.0))[0]
        return {"clip": clips, "answers": answers.to(self.device)}


class ClipFeaturesRecipe:
    """Clips of 8 frames of 64 px of the moving world."""

    name = "toy-clip-features"
    settings = Settings(
        batch_size=32, optimizer="muon", learning_rate=3e-3, warm_learning_rate=1e-3, decay_share=0.6, ema_decay=0.99, max_grad_norm=5.0,
        held_out_seed=7015, held_out=512, sheet_batches=1, export_batches=16,
    )  # fmt: skip
    gates = (
        Gate("direction", 0.97),
        Gate("words", 0.95),
        Gate("distance_same_corrected", 0.64, at_most=True),
        Gate("distance_shuffled_corrected", 6.4),
        Gate("distance_blurred_corrected", 6.4),
        Gate("distance_recoloured_corrected", 6.4),
    )
    card = Card(
        about=(
            "Features of clips of the toy world (`calotype.backbones.clip_features`): a (2+1)-D convolutional network that names "
            "category, colour, ground, direction, speed and sharpness. A Frechet distance of these features compares models of the toy "
            "world; it is no FVD. `words`: category and colour right. `distance_...`: Frechet distance between clips of the world and "
            "other clips of it (`same`), blurred ones (`blurred`), ones whose frames are in a random order (`shuffled`) and ones "
            "whose objects all have one colour (`recoloured`), in units of a feature's mean variance over clips of the world; "
            "`..._corrected`: without its bias."
        ),
        data="the moving clips, straight and diagonal, two fifths of them blurred",
        made_from="clips that the toy world paints",
    )
    width, features = 24, 64
    tune_count = 512
    """Clips that the spread is measured on."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeClipFeatures:
        """The network, from an exported folder or from random weights."""
        if start is not None:
            return TraineeClipFeatures(load_clip_features(start).network.requires_grad_(True).train())
        return TraineeClipFeatures(networks.seeded(seed, lambda: ClipFeatureNetwork(ANSWERS, width=self.width, features=self.features)))

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> AnsweredClips:
        """Clips of a split."""
        return AnsweredClips(split, seed, device)

    def sample_grid(self, trainee: TraineeClipFeatures, source: AnsweredClips, path: Path) -> list[Path]:
        """Held-out clips, one a row, those with most wrong answers first."""
        batch = source.batch(range(64), BatchRng(0, 0, range(64), 64), augment=False)
        with torch.no_grad():
            losses = trainee(batch)
        clips = batch["clip"][losses.argsort(descending=True)[:8]]
        return [save_grid(clips.flatten(0, 1), networks.FRAMES, path)]

    def export(self, trainee: TraineeClipFeatures, source: AnsweredClips, folder: Path) -> None:
        """Weights in 8 bits, and a config with the spread of the features over clips of the split `tune`."""
        network = trainee.network.eval().cpu()
        save_quantized(network.state_dict(), folder / ROUNDED)
        write_json(folder / "config.json", {**network.config(), "spread": 1.0})
        scenes = [sample_moving(split="tune", seed=source.seed, index=index) for index in range(self.tune_count)]
        found = load_clip_features(folder)(paint(scenes, num_frames=networks.FRAMES))
        write_json(folder / "config.json", {**network.config(), "spread": round(float(found.var(0).mean().sqrt()), 6)})

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """Shares of right answers on straight clips, and the distances of spoilt clips."""
        features, count = load_clip_features(folder), count or 512
        events.stage("compare clips", 5)
        scenes = [sample_moving(split="eval", seed=seed, index=index) for index in range(2 * count)]
        clips = paint(scenes, num_frames=networks.FRAMES)
        figures = accuracy(features, scenes[:count], clips[:count])
        events.step()
        first, second = features(clips[:count]), clips[count:]
        for name, spoilt in spoilings(scenes[count:], second, seed).items():
            found = frechet_interval(first, features(spoilt()))
            figures |= {f"distance_{name}": found.value, f"distance_{name}_corrected": found.corrected}
            events.step()
        return {**figures, "count": float(count)}


def accuracy(features: ClipFeatures, scenes: Sequence[MovingScene], clips: Tensor) -> dict[str, float]:
    """Share of right answers to each question, and of `words`, category and colour together."""
    right = [answers_of(scene) for scene in scenes]
    given = features.answer(clips)
    figures = {question: sum(a[question] == b[question] for a, b in zip(right, given, strict=True)) / len(right) for question in ANSWERS}
    words = [all(a[question] == b[question] for question in ("category", "colour")) for a, b in zip(right, given, strict=True)]
    return {**figures, "words": sum(words) / len(words)}


def spoilings(scenes: Sequence[MovingScene], clips: Tensor, seed: int) -> dict[str, Callable[[], Tensor]]:
    """The clips themselves (`same`), `shuffled` in time, `blurred` and `recoloured` to one colour."""

    def shuffled() -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        orders = torch.stack([torch.randperm(clips.shape[1], generator=draw) for _ in clips])
        return torch.stack([clip[order] for clip, order in zip(clips, orders, strict=True)])

    def one_colour() -> Tensor:
        return paint([recoloured(scene, 0, WORLD.colours[0]) for scene in scenes], num_frames=clips.shape[1])

    return {"same": lambda: clips, "shuffled": shuffled, "blurred": lambda: blurred_clips(clips, BLUR_PX), "recoloured": one_colour}
