"""The recipe of `toy-cmd`: `CMDTraining` on captioned clips of the moving world, with `toy-t2i` as the image model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from calotype.backbones.autoencoder import LatentSpace
from calotype.backbones.folder import SHARED
from calotype.core.events import Events
from calotype.embedded.card import Card, Gate
from calotype.imaging.files import write_json
from calotype.methods.cmd.training import CMDTraining, ContentMotionBatches, TraineeCMD
from calotype.train.clip_latents import encoded
from calotype.train.latents import Chunks
from calotype.train.recipe import Settings
from calotype.world import paint
from calotype.world.moving import MovingScene, Variant, sample_moving

IMAGE_MODEL = "toy-t2i"
BORROWED = ("vae", "text_encoder", "tokenizer")
"""Parts of the image model that stay as they are, and are kept once."""
FRAMES, FPS = 8, 7.0
VARIANTS: tuple[Variant, ...] = ("straight",) * 12 + ("diagonal",) * 5 + ("crossing",) * 3
"""Of every twenty clips."""
CHUNK = 100


def moving_scene(split: str, seed: int, index: int) -> MovingScene:
    """Clip number `index` of the mix."""
    return sample_moving(split=split, seed=seed, index=index, num_frames=FRAMES, variant=VARIANTS[index % len(VARIANTS)])


class _Rate:
    """What `CMDTraining.build` asks of a data set: the rate of its clips."""

    def rows(self, indices: list[int]) -> dict[str, Tensor]:
        return {"fps": torch.full((len(indices),), FPS)}


class CMDRecipe:
    """Clips of 8 frames at 64 px: one object along an axis or a diagonal, or two that cross."""

    name = "toy-cmd"
    training = CMDTraining(optimizer="muon", batch_size=32, motion_depth=4)
    settings: Settings = replace(training.settings(), cuda_batch_size=64, warm_learning_rate=5e-4)
    train_clips, tune_clips = 16_384, 256
    gates = (Gate("psnr_over_repeated_db", 6.0), Gate("direction_accuracy", 0.7), Gate("words_accuracy", 0.7))
    card = Card(
        about=(
            "Caption to 8 frames through a content frame and its motion (`calotype.backbones.content_motion`): an autoencoder of clips of "
            "2 million weights, `toy-t2i`'s UNet trained on its content frames, and a transformer of 1.4 million weights for the motion. "
            "Text encoder, tokenizer and image autoencoder are `toy-t2i`'s, and lie in its folder."
        ),
        data="the moving world",
        made_from="clips that the toy world paints",
    )

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeCMD:
        """The networks, from an exported folder, or from toy-t2i and random weights."""
        return replace(self.training, image_model=str(checkpoints / IMAGE_MODEL)).build(_Rate(), seed=seed, start=start)

    def source(
        self, trainee: TraineeCMD, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> ContentMotionBatches:
        """Clips of a split."""
        space = LatentSpace(trainee.image_model.latent_space.vae.to(device), torch.device(device))
        count = self.train_clips if split == "train" else self.tune_clips

        def make(first: int, number: int) -> dict[str, Tensor]:
            scenes = [moving_scene(split, seed, first + row) for row in range(number)]
            return encoded(space, paint(scenes, num_frames=FRAMES, device=device))

        chunks = Chunks(make, count=count, chunk=min(CHUNK, count), folder=folder / f"moving-{split}-{seed}")
        captions = [moving_scene(split, seed, index).caption for index in range(count)]
        return self.training.batches(trainee, chunks, captions, device)

    def sample_grid(self, trainee: TraineeCMD, source: ContentMotionBatches, path: Path) -> list[Path]:
        """See `CMDTraining.draw`."""
        return self.training.draw(trainee, source, path)

    def export(self, trainee: TraineeCMD, source: ContentMotionBatches, folder: Path) -> None:
        """See `calotype.backbones.content_motion`; weights in 8 bits, without the parts that are toy-t2i's."""
        self.training.write(trainee, folder, rounded=True)
        for name in BORROWED:
            shutil.rmtree(folder / name)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        write_json(folder / "model_index.json", {**index, SHARED: dict.fromkeys(BORROWED, IMAGE_MODEL)})

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> Mapping[str, float]:
        """The method's claims on the model (`calotype.evaluation.cmd`)."""
        from calotype.evaluation.cmd import model_figures

        figures: Mapping[str, float] = model_figures(folder, seed=seed, count=count, device=device, events=events)
        return figures
