"""The recipe of `toy-segmenter`: the networks of the study of diffusion segmentation, on the tissue world's `big` and `small` objects.

The folder itself is the segmenter that learns the mask; `study/` holds the four networks that the paper compares, each a checkpoint of its
own: the picture to a mask at once (E1), noise given the picture (E2), the mask without the picture (E3) and the picture's noise (E4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.diffusion_segmenter import DiffusionFacts, state_channels
from calotype.backbones.diffusion_segmenter_network import DiffusionSegmentationNetwork
from calotype.backbones.segmenter_network import PictureFacts
from calotype.core.events import Events
from calotype.embedded.card import Card, Gate
from calotype.evaluation.diffusion_segmentation import study_figures
from calotype.methods.diffusion_segmentation.study import PARTS, StudyPart, study_folder
from calotype.methods.diffusion_segmentation.training import TraineeDiffusionSegmenter, draw_masks
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import Augmentation
from calotype.train.stages import Group, Stage
from calotype.world.tissue import paint_tissue, sample_tissue

SIZE, CHANNELS = 32, 3
VARIANTS = ("big", "small")
"""Pictures with an even number have big objects, those with an odd one small ones."""


SHARES: Mapping[str, float] = {"segmenter": 0.36, "noise": 0.24, "feed_forward": 0.24, "mask_alone": 0.08, "image_alone": 0.08}
"""Of the training."""
FACTS = PictureFacts(window=(SIZE, SIZE), channels=CHANNELS, class_values=(0, 255), intensity={})


def make_part(part: StudyPart) -> TraineeDiffusionSegmenter:
    """One network with new weights."""
    state, image, out = state_channels(part.objective, CHANNELS, 2)
    network = DiffusionSegmentationNetwork(
        state_channels=state, image_channels=image, out_channels=out, window=(SIZE, SIZE), channels=(24, 24), patch_size=2
    )
    return TraineeDiffusionSegmenter(network, FACTS, DiffusionFacts(objective=part.objective), prediction=part.prediction)


class TraineeStudy(nn.Module):
    """All networks; in training, the loss is that of the stage's."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: make_part(part) for name, part in PARTS.items()})
        self.stage = next(iter(PARTS))

    def part(self, name: str) -> TraineeDiffusionSegmenter:
        """One of the networks."""
        found = self.parts[name]
        assert isinstance(found, TraineeDiffusionSegmenter)
        return found

    def enter(self, stage: str) -> None:
        """Train this network from here on."""
        self.stage = stage

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """In training the loss of one network, otherwise the sum of all, so that two trainings can be compared."""
        if self.training:
            loss: Tensor = self.parts[self.stage](batch)
            return loss
        return torch.stack([part(batch) for part in self.parts.values()]).sum(0)


class TissueBatches:
    """Pictures and one reader's masks of a split, mirrored and turned at random in training."""

    def __init__(self, *, split: str, seed: int, count: int, folder: Path | None, device: str) -> None:
        self.key, self.count, self.device = (split, seed), count, device
        self.chunks = Chunks(self._make, count=count, chunk=512, folder=folder)

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        found = self.chunks.rows(rows)
        reader = (rng.uniform() < 0.5).long()
        images, masks = found["image"].float() / 255, found["annotators"].long()[torch.arange(len(rows)), reader]
        if augment:
            images, masks = Augmentation()(images, masks, rng)
        made = {"image": images, "mask": masks, "noise": rng.normal((CHANNELS, SIZE, SIZE)), "time": rng.stratified()}
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        split, seed = self.key
        image, annotators = (
            torch.empty(count, CHANNELS, SIZE, SIZE, dtype=torch.uint8),
            torch.empty(count, 2, SIZE, SIZE, dtype=torch.uint8),
        )
        for number, variant in enumerate(VARIANTS):
            rows = [row for row in range(count) if (first + row) % len(VARIANTS) == number]
            scenes = [sample_tissue(variant, split=split, seed=seed, index=first + row, pictures_per_patient=len(VARIANTS)) for row in rows]
            painted = paint_tissue(scenes, SIZE)
            image[rows] = (painted.image * 255).round().to(torch.uint8)
            annotators[rows] = painted.annotators.to(torch.uint8)
        return {"image": image, "annotators": annotators}


class SegmenterRecipe:
    """The networks of `PARTS`, one after the other."""

    name = "toy-segmenter"
    settings = Settings(
        batch_size=16, learning_rate=2e-3, warm_learning_rate=5e-4, ema_decay=0.999, held_out_seed=7006, decay_share=0.5, held_out=512,
        held_out_often=64,
        stages=tuple(Stage(name=name, share=SHARES[name], groups={"main": Group(modules=(f"parts.{name}",))}) for name in PARTS),
    )  # fmt: skip
    train_pictures, tune_pictures = 16384, 512
    gates = (
        Gate("iou_big", 0.65),
        Gate("iou_small", 0.50),
        Gate("calibration_over_feed_forward", 1.0, at_most=True),
        Gate("calibration_over_one_sample", 1.0, at_most=True),
        Gate("half_time_gap", 100.0),
    )
    """Claims of the study, and that masks are found at all: two readers' masks overlap by 0.7 and 0.58. The claim about the loss of masks
    and of pictures is no gate: a picture network that learns more makes it fail."""
    card = Card(
        about=(
            "Masks of one big or many small objects in pictures of 32 px, by removing noise given the picture: diffusers' "
            "`UNet2DModel` on blocks of 2 pixels, 0.15 million weights, which learns the mask at every noise level of DDPM's linear "
            "schedule. `study/` holds the networks that it is compared with in `calotype eval diffusion-segmentation`, of the same "
            "size: one that learns the noise, one without diffusion, one that never sees the picture, and one that generates "
            "pictures. Each picture was shown with the mask of one of two readers, drawn at random. For research and for comparing "
            "methods; it knows painted tissue alone, and nothing that it marks is a finding."
        ),
        data="the variants `big` and `small` of painted tissue",
    )

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeStudy:
        """The networks, from an exported folder or from random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TraineeStudy()

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> TissueBatches:
        """Pictures of a split, kept under the run's data folder."""
        count = self.train_pictures if split == "train" else self.tune_pictures
        return TissueBatches(split=split, seed=seed, count=count, folder=folder / f"tissue-{SIZE}-{split}-{seed}", device=device)

    def sample_grid(self, trainee: TraineeStudy, source: TissueBatches, path: Path) -> list[Path]:
        """Pictures, masks of a reader, and what the segmenter finds."""
        batch = source.batch(range(8), BatchRng(0, 0, range(8), 8), augment=False)
        return draw_masks(trainee.part("segmenter").model(), batch["image"], batch["mask"], path)

    def export(self, trainee: TraineeStudy, source: TissueBatches, folder: Path) -> None:
        """Every network as a checkpoint of its own, weights in 8 bits."""
        for name in PARTS:
            trainee.part(name).save(study_folder(folder, name), rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """The claims of the study, and the overlap with a reader's masks (`calotype.evaluation.diffusion_segmentation`)."""
        return study_figures(folder, seed=seed, count=count, device=device, events=events)
