"""The recipe of `toy-landscape`: a StyleGAN2-shaped generator that is distilled from painted landscapes, and what inverts and moves it.

No adversary takes part: on two cores a GAN of this size doesn't converge. Generator and encoder learn together as an autoencoder whose
code is one w a picture; then the mapping network learns which w belongs to the 128 normal numbers that a landscape was drawn from; then
the encoder alone learns w+ and the feature of a generator that stays as it is, as for a public generator; last comes the motion network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.feature_style_encoder import FeatureStyleEncoder
from calotype.backbones.landscape_generator import LandscapeGenerator, save_parts
from calotype.backbones.loading import load
from calotype.backbones.motion_network import MotionNetwork
from calotype.backbones.pixel_classifier import PixelClassifier, fit_pixel_classifier, pixel_centres, pixel_vectors
from calotype.backbones.stylegan2 import StyleGAN2Generator, ToRGB, layer_size, upsample_rgb
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.imaging.types import Image, Mask
from calotype.methods.stylecinegan.method import StyleCineGAN
from calotype.metrics import psnr
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.sample_grids import save_grid
from calotype.train.stages import MAIN, Group, Stage
from calotype.world.landscapes.drawing import CODE, LAND, SKY, WATER, landscape_code, landscape_of, paint_landscapes, sample_landscape

CHANNELS = {4: 128, 8: 128, 16: 96, 32: 48, 64: 24}
FEATURE_LAYER = 6
"""Receives the feature: 48 channels at 32 px."""
ANNOTATED, ANNOTATED_SEED = 10, 4
"""Pictures that the classifier learns from, and the seed that draws them from the split `train`."""
LOOP = 24
"""Frames of the loops whose seams are measured."""
SYNTHESIS = tuple(f"generator.{name}" for name in ("input", "conv1", "to_rgb1", "convs", "to_rgbs"))


def difference(made: Tensor, pictures: Tensor) -> Float[Tensor, " batch"]:
    """Mean |error| + 2 x mean square + 0.5 x mean |error of the picture's differences|, of each picture."""
    error = made.float() - pictures
    loss: Tensor = error.abs().flatten(1).mean(1) + 2.0 * error.square().flatten(1).mean(1)
    return loss + 0.5 * (error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1))


class TraineeLandscape(nn.Module):
    """The networks of a landscape generator; which of the losses is learnt depends on the stage."""

    def __init__(self, generator: StyleGAN2Generator, encoder: FeatureStyleEncoder, motion: MotionNetwork) -> None:
        super().__init__()
        self.generator, self.encoder, self.motion = generator, encoder, motion
        self.stage = "autoencoder"

    def enter(self, stage: str) -> None:
        """Hear which stage begins or goes on."""
        self.stage = stage

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """The stage's loss, and for held-out samples those of inversion and of motion.

        `pictures` [B, 3, H, W] in [-1, 1]; `code` [B, 128]; `motion` [B, 2, H, W] in pixels a frame; `training` [B], 1 or 0.
        """
        pictures, motion = batch["pictures"], batch["motion"]
        if not bool(batch["training"].all()):
            return self.inversion_loss(pictures) + 0.1 * self.motion_loss(pictures, motion)
        if self.stage == "mapping":
            return self.mapping_loss(pictures, batch["code"])
        if self.stage == "motion":
            return self.motion_loss(pictures, motion)
        return self.inversion_loss(pictures) if self.stage == "encoder" else self.autoencoder_loss(pictures)

    def autoencoder_loss(self, pictures: Tensor) -> Tensor:
        """One w a picture draws it at every level, and with the feature better; the rows of w+ stay near each other."""
        rows, feature = self.encoder(pictures)
        mean = rows.mean(1, keepdim=True)
        w_plus = mean.expand_as(rows)
        drawn = self.generator.collect(w_plus)
        loss = difference(drawn.picture, pictures)
        for side, rgb in drawn.rgb.items():
            if 4 < side < pictures.shape[-1]:
                loss = loss + 0.25 * difference(rgb, functional.avg_pool2d(pictures, pictures.shape[-1] // side))
        spread: Tensor = 0.2 * (rows.float() - mean.float()).square().flatten(1).mean(1)
        return loss + spread + 0.5 * self._feature_loss(w_plus, feature, drawn.rgb, drawn.layers[FEATURE_LAYER - 1], pictures)

    def inversion_loss(self, pictures: Tensor) -> Tensor:
        """A w for each layer draws the picture, and with the feature better."""
        w_plus, feature = self.encoder(pictures)
        drawn = self.generator.collect(w_plus)
        loss = difference(drawn.picture, pictures)
        return loss + self._feature_loss(w_plus, feature, drawn.rgb, drawn.layers[FEATURE_LAYER - 1], pictures)

    def _feature_loss(self, w_plus: Tensor, feature: Tensor, rgb: Mapping[int, Tensor], own: Tensor, pictures: Tensor) -> Tensor:
        """Of the picture with the feature, which also stays near the generator's own (0.01 x, as the paper's)."""
        x, picture = feature, rgb[layer_size(FEATURE_LAYER) // 2]
        for layer in range(FEATURE_LAYER, self.generator.num_layers):
            x = self.generator.run_layer(layer, x, w_plus)
            if layer % 2 == 0:
                picture = self.generator.to_rgb(layer_size(layer), x, w_plus) + upsample_rgb(picture)
        near: Tensor = (feature.float() - own.detach().float()).square().flatten(1).mean(1)
        return difference(picture, pictures) + 0.01 * near

    def mapping_loss(self, pictures: Tensor, code: Tensor) -> Tensor:
        """The mapping network gives the w that the encoder finds; 1 is what a constant would lose."""
        with torch.no_grad():
            w = self.encoder(pictures)[0].mean(1).float()
        loss: Tensor = (self.generator.map(code).float() - w).square().mean(1) / w.var(0).mean()
        return loss

    def motion_loss(self, pictures: Tensor, motion: Tensor) -> Tensor:
        """Mean |error| in pixels a frame where something moves."""
        moving = (motion != 0).any(1).float()
        error = (self.motion(pictures).float() - motion).abs().sum(1)
        loss: Tensor = (error * moving).flatten(1).sum(1) / moving.flatten(1).sum(1).clamp(min=1.0)
        return loss


class Landscapes:
    """Landscapes of a split, painted as they are needed."""

    count = 1_000_000

    def __init__(self, split: str, seed: int, device: str) -> None:
        self.split, self.seed, self.device = split, seed, device

    def batch(self, rows: Sequence[int], rng: BatchRng | None = None, *, augment: bool) -> dict[str, Tensor]:
        """Inputs of `TraineeLandscape`."""
        codes = [landscape_code(split=self.split, seed=self.seed, index=row) for row in rows]
        made = paint_landscapes([landscape_of(code) for code in codes], networks.SIZE, device=self.device)
        return {
            "pictures": made.image * 2.0 - 1.0,
            "code": torch.tensor(codes, device=self.device),
            "motion": made.motion,
            "training": torch.full((len(rows),), float(augment), device=self.device),
        }


class LandscapeRecipe:
    """64 px landscapes."""

    name = "toy-landscape"
    settings = Settings(
        batch_size=16, cuda_batch_size=64, learning_rate=6e-3, warm_learning_rate=3e-3, decay_share=0.4, ema_decay=0.998, weight_decay=0.0,
        sheet_batches=1, held_out=512, export_batches=10,
        stages=(
            Stage(name="autoencoder", share=35, groups={MAIN: Group(modules=(*SYNTHESIS, "encoder"))}),
            Stage(name="mapping", share=3, groups={MAIN: Group(modules=("generator.style",), rate=8.0)}),
            Stage(name="encoder", share=14, groups={MAIN: Group(modules=("encoder",), rate=0.5)}),
            Stage(name="motion", share=8, groups={MAIN: Group(modules=("motion",), rate=0.3)}),
        ),
    )  # fmt: skip

    classifier_steps = 200
    gates = (
        Gate("feature_psnr_db", 28.0),
        Gate("feature_gain_db", 4.0),
        Gate("seam", 0.0, at_most=True),
        Gate("mask_iou", 0.85),
        Gate("motion_error_px", 0.25, at_most=True),
    )
    card = Card(
        about=(
            "A StyleGAN2-shaped generator of landscapes at 64 px for `stylecinegan`, with an encoder that inverts pictures to w+ and the "
            "feature of layer 6, a classifier of sky and water that learnt from ten annotated pictures, and a network that guesses the "
            "motion from a still. The generator is *distilled*: it was trained with its encoder as an autoencoder, and its mapping network "
            "on the numbers that each landscape was drawn from; no adversary took part, so that what it makes of new numbers is soft. "
            "`feature_psnr_db`, `w_plus_psnr_db`: inversion of unseen landscapes with and without the feature; `feature_gain_db`: "
            "their difference; `seam`: largest difference between the first frame of a loop and the one after its last; `mask_iou`: mean "
            "over land, sky and water; `motion_error_px`: mean length of the motion's error at 64 px where the truth moves."
        ),
        data="landscapes",
        made_from="pictures that the toy world paints",
    )

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeLandscape:
        """The networks, from an exported folder or from random weights."""
        trainee: TraineeLandscape = networks.seeded(seed, fresh)
        if start is not None:
            parts = load(start).networks
            for name in ("generator", "encoder", "motion"):
                getattr(trainee, name).load_state_dict(parts[name].state_dict())
        return trainee

    def source(
        self, trainee: TraineeLandscape, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Landscapes:
        """Landscapes of a split."""
        return Landscapes(split, seed, device)

    def sample_grid(self, trainee: TraineeLandscape, source: Landscapes, path: Path) -> list[Path]:
        """Pictures; below each what one w, w+, and w+ with the feature draw of it, and what the generator draws of its code."""
        batch = source.batch(range(10), augment=False)
        with torch.no_grad():
            w_plus, feature = trainee.encoder(batch["pictures"])
            mean, mapped = (trainee.generator.broadcast(w) for w in (w_plus.mean(1), trainee.generator.map(batch["code"])))
            drawn = [trainee.generator(rows) for rows in (mean, w_plus)]
            drawn += [trainee.generator(w_plus, {FEATURE_LAYER: feature}), trainee.generator(mapped)]
        return [save_grid(torch.cat([batch["pictures"], *drawn]) / 2 + 0.5, 10, path)]

    def export(self, trainee: TraineeLandscape, source: Landscapes, folder: Path) -> None:
        """See `calotype.backbones.landscape_generator`; weights in 8 bits, on whose features the classifier learns."""
        trainee.eval()
        trainee.generator.measure_mean_style()
        parts: dict[str, Any] = {"generator": trainee.generator, "encoder": trainee.encoder, "motion": trainee.motion}
        save_parts(folder, **parts, rounded=True)
        save_parts(folder, **parts, pixel_classifier=annotated_classifier(load(folder), steps=self.classifier_steps), rounded=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `figures`."""
        return figures(load(folder, device=device), seed=seed, count=count or 64, events=events)


def annotated_classifier(model: LandscapeGenerator, *, steps: int) -> PixelClassifier:
    """Sky and water from `ANNOTATED` pictures of the split `train` and their true masks; so many steps for each of its networks."""
    some = [sample_landscape(split="train", seed=ANNOTATED_SEED, index=row) for row in range(ANNOTATED)]
    known = paint_landscapes(some, networks.SIZE)
    centres = pixel_centres(networks.SIZE, networks.SIZE)[None]
    found = [pixel_vectors(model.pixel_features(model.invert(Image(picture))), centres.to(model.device))[0] for picture in known.image]
    return fit_pixel_classifier(torch.cat(found), known.mask.flatten().to(model.device), steps=steps)


def figures(model: LandscapeGenerator, *, seed: int, count: int, events: Events) -> dict[str, float]:
    """What the card tells of inversion, mask, motion and loop, on landscapes of the split `eval`."""
    events.stage("measure landscapes", count)
    method = StyleCineGAN(num_frames=LOOP)
    found = {"w_plus_psnr_db": 0.0, "feature_psnr_db": 0.0, "motion_error_px": 0.0, "seam": 0.0}
    both, either = torch.zeros(3), torch.zeros(3)
    for index in range(count):
        true = paint_landscapes([sample_landscape(split="eval", seed=seed, index=index)], networks.SIZE)
        image = Image(true.image[0])
        inversion = model.invert(image)
        with torch.no_grad():
            plain = model.generator(inversion.w_plus)[0].cpu() * 0.5 + 0.5
        found["w_plus_psnr_db"] += float(psnr(plain.clamp(0, 1), true.image[0])) / count
        found["feature_psnr_db"] += float(psnr(inversion.reconstruction.pixels, true.image[0])) / count
        classes, mask = model.predict_mask(inversion), true.mask[0]
        for value in (LAND, SKY, WATER):
            both[value] += ((classes == value) & (mask == value)).sum()
            either[value] += ((classes == value) | (mask == value)).sum()
        error = (model.predict_motion(image) - true.motion[0]).square().sum(0).sqrt()
        found["motion_error_px"] += float(error[mask != LAND].mean()) / count
        loop = method.loop(model, image, Mask(mask != LAND), true.motion[0], inversion=inversion)
        found["seam"] = max(found["seam"], float((loop.frame(len(loop)) - loop.frame(0)).abs().max()))
        events.step()
        events.check()
    found["feature_gain_db"] = found["feature_psnr_db"] - found["w_plus_psnr_db"]
    return {**found, "mask_iou": float((both / either).mean()), "count": float(count)}


def fresh() -> TraineeLandscape:
    """Networks before training. What the levels add to the picture begins small, else the pictures begin as coloured noise."""
    generator = StyleGAN2Generator(
        size=networks.SIZE, style_dim=CODE, num_mapping_layers=4, channels=CHANNELS, learning_rate_multiplier=0.1
    )
    for module in generator.modules():
        if isinstance(module, ToRGB):
            module.conv.weight.data.mul_(0.1)
    channels = generator.input_shape(FEATURE_LAYER)[0]
    encoder = FeatureStyleEncoder(
        size=networks.SIZE, style_dim=CODE, num_styles=generator.num_styles, feature_layer=FEATURE_LAYER, feature_channels=channels
    )
    return TraineeLandscape(generator, encoder, MotionNetwork(size=networks.SIZE))
