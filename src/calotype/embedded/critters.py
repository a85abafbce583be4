"""The recipe of `toy-critters`: a picture model of critters, a vision transformer that can't tell left from right, and a feature mixer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.descriptors import PIPELINE, save_descriptors
from calotype.backbones.diffusion_features import decoder_layers
from calotype.backbones.feature_mixer import FeatureMixer, resized
from calotype.backbones.folder import INT8, ROUNDED, SHARED, Part
from calotype.backbones.layouts import pipeline_layout
from calotype.backbones.loading import load_rounded_network
from calotype.backbones.vision_transformer import patch_features
from calotype.core.denoiser import Rates
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.embedded.t2i import TraineeT2I
from calotype.embedded.tokenizer import caption_tokens
from calotype.embedded.vae import load_autoencoder
from calotype.imaging.files import write_json
from calotype.train.latents import Chunks, encode, pin
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.stages import Group, Stage
from calotype.world.critters.anatomy import PARTS, Critter, corresponding_points
from calotype.world.critters.raycasting import render_pictures
from calotype.world.critters.sampling import picture_caption, sample_critter_picture

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import Dinov2Model

SIZE, CELL = 128, 4
"""Side of the pictures, and pixels of a cell of the latents, in which the parts are known."""
WORDS_OF, LATENTS_OF = "toy-t2i", "toy-vae-wide"
"""The models whose text encoder and tokenizer, and whose autoencoder, are used as they are."""
CAPTION_DROPOUT = 0.25
"""Features are taken with the empty caption, which must therefore be a usual one."""
MIXED_TIMESTEP = 100
"""Noise level of the features that are mixed."""
POINTS, EMPTY_POINTS = 24, 4
"""Cells of a picture that take part in a step of the mixer or the transformer: on the critter, and elsewhere."""
NEAR = 0.08
"""Standard deviation, in units of the critter's height, of how far two places of a part may be from each other and still correspond."""
TEMPERATURE = 0.07
LENGTH = 8.0
"""Of the descriptors before they are classified."""
PART_WEIGHTS = (0.05, *(2.0 if part.startswith(("arm", "leg")) else 0.3 if part in ("body", "head") else 1.0 for part in PARTS))
"""Of cells without a part, and of the cells of each of `PARTS`."""
TEMPLATE = Critter(
    x=0.0, y=0.0, yaw=0.0, colour="red", limbs="blue", height=1.0, head=0.21, belly=0.17, leg_length=0.31, leg_radius=0.067,
    arm_length=0.36, arm_radius=0.065, raised=(0.1, 0.1), forward=(0.1, 0.1), spread=(0.5, 0.5), tail_length=0.32,
    tail_radius=0.057, tail_raised=0.45,
)  # fmt: skip
"""Places of all critters are compared as the corresponding ones of this critter."""


class TraineeCritters(nn.Module):
    """The three networks; the loss is that of the stage: `diffusion`, `transformer` or `mixer`.

    The denoiser learns as `TraineeT2I` does. The other two learn which cells of different pictures show the same place of a critter: the
    cross entropy between the softmax of the cosines to all other cells, and weights that are Gaussian in the distance on `TEMPLATE`
    within a part. They also learn to name the part of each cell. The transformer's pictures are mirrored at random, and what is known of
    them is not: a mirrored left arm is still called left, so that it learns what an arm is, and not which.
    """

    def __init__(self, denoiser: TraineeT2I, vit: Dinov2Model, mixer: FeatureMixer) -> None:
        super().__init__()
        self.denoiser, self.vit, self.mixer = denoiser, vit, mixer
        # Only the training needs them: what each descriptor shows, which is learnt sooner than what resembles what.
        self.vit_parts = nn.Linear(vit.config.hidden_size, len(PARTS) + 1)
        self.mixer_parts = nn.Linear(mixer.config.out_channels, len(PARTS) + 1)
        denoiser.text_encoder.requires_grad_(False)
        self.stage = "mixer"

    def enter(self, stage: str) -> None:
        """Train this network from here on."""
        self.stage = stage

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """What `CritterBatches` makes."""
        if self.stage == "diffusion":
            losses: Tensor = self.denoiser(batch)
            return losses
        if self.stage == "transformer":
            turned = (batch["mirrored"] > 0)[:, None, None]
            pixels = torch.where(turned[:, None], batch["pixels"].flip(-1), batch["pixels"])
            found = patch_features(self.vit, pixels)
            # Mirrored back, so that a cell is where the maps of parts have it.
            found = torch.where(turned[:, None], found.flip(-1), found)
            side = batch["part"].shape[-1]
            found = resized(found, (side, side))
            return correspondence_loss(found, batch) + part_loss(self.vit_parts, found, batch)
        found = self.mixer([self._taps(batch)])
        return correspondence_loss(found, batch) + part_loss(self.mixer_parts, found, batch)

    @torch.no_grad()
    def _taps(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Features of the decoder's layers at `MIXED_TIMESTEP`, with the empty caption."""
        latents = batch["latents"]
        timesteps = torch.full((len(latents),), MIXED_TIMESTEP, device=latents.device)
        alpha = self.denoiser.alphas[timesteps].view(-1, 1, 1, 1)
        given, _ = self.denoiser.preconditioner.example(latents, batch["noise"], Rates.of_alpha(alpha))
        seen: dict[str, Tensor] = {}
        hooks = [
            self.denoiser.unet.get_submodule(layer).register_forward_hook(lambda _, __, output, layer=layer: seen.update({layer: output}))
            for layer in self.mixer.config.layers
        ]
        try:
            self.denoiser.unet(given, timesteps, self.denoiser.states({"tokens": batch["empty"]}))
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[layer].float() for layer in self.mixer.config.layers]


def correspondence_loss(maps: Float[Tensor, "batch channels rows columns"], batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """The loss of `TraineeCritters` for maps of descriptors; `points` [B, P] int64 are the cells that take part."""
    points = batch["points"]
    part = batch["part"].flatten(1).gather(1, points).flatten()
    place = batch["place"].flatten(2).transpose(1, 2).gather(1, points[..., None].expand(-1, -1, 3)).flatten(0, 1)
    chosen = maps.float().flatten(2).transpose(1, 2).gather(1, points[..., None].expand(-1, -1, maps.shape[1]))
    unit = functional.normalize(chosen.flatten(0, 1), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    alike = (part[:, None] == part) & (part >= 0) & ~itself
    weight = torch.exp(-torch.cdist(place, place).square() / (2.0 * NEAR**2)) * alike
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    total = weight.sum(1, keepdim=True)
    known = total[:, 0] > 0.3
    cross = -(weight / total.clamp(min=1e-6) * functional.log_softmax(logits, 1).masked_fill(itself, 0.0)).sum(1)
    cross, known = cross.view(points.shape), known.view(points.shape)
    return (cross * known).sum(1) / known.sum(1).clamp(min=1)


def part_loss(
    classifier: nn.Linear, maps: Float[Tensor, "batch channels rows columns"], batch: Mapping[str, Tensor]
) -> Float[Tensor, " batch"]:
    """Cross entropy of a linear classifier of the unit descriptors of all cells; `PART_WEIGHTS` says how much each part counts."""
    unit = functional.normalize(maps.float(), dim=1) * LENGTH
    logits = classifier(unit.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    weight = torch.tensor(PART_WEIGHTS, device=maps.device)
    part = batch["part"] + 1
    losses = functional.cross_entropy(logits.float(), part, weight=weight, reduction="none").flatten(1).sum(1)
    return losses / weight[part].flatten(1).sum(1)


class CritterBatches:
    """Pictures of critters as latents and pixels, their captions, and which place of a critter each cell shows; made once and kept."""

    def __init__(self, vae: AutoencoderKL, tokenizer: Any, *, split: str, seed: int, device: str, count: int, folder: Path) -> None:
        self.vae, self.tokenizer, self.split, self.seed, self.device, self.count = vae, tokenizer, split, seed, device, count
        self.chunks = Chunks(self._make, count=count, chunk=min(256, count), folder=folder, memory_megabytes=1000.0)
        self.empty = caption_tokens(tokenizer, [""])[0].long()

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """See `calotype.train.recipe.Source`."""
        made = self.chunks.rows(rows)
        tokens, empty = made["tokens"].long(), self.empty.expand(len(rows), -1)
        dropped = (rng.uniform() < CAPTION_DROPOUT)[:, None]
        part, thing = made["part"].long(), made["thing"]
        batch = {
            "latents": made["latents"].float(), "noise": rng.normal(made["latents"].shape[1:]),
            "timesteps": (rng.stratified() * networks.SCHEDULE["num_train_timesteps"]).long(),
            "tokens": torch.where(dropped, empty, tokens) if augment else tokens, "empty": empty, "pixels": made["pixels"].float() / 255,
            "mirrored": (rng.uniform() < 0.5).float(), "part": part, "place": made["place"].float(),
            "points": _points(part, thing == 0, rng),
        }  # fmt: skip
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        pictures = [sample_critter_picture(split=self.split, seed=self.seed, index=index) for index in range(first, first + count)]
        seen = render_pictures([scene for scene, _ in pictures], [camera for _, camera in pictures], SIZE)
        middle = slice(CELL // 2, None, CELL)
        part, thing, point = seen.part[:, middle, middle], seen.thing[:, middle, middle], seen.point[:, :, middle, middle]
        place = torch.zeros(point.shape)
        for row, (scene, _) in enumerate(pictures):
            for number, critter in enumerate(scene.critters):
                for kind, name in enumerate(PARTS):
                    here = (part[row] == kind) & (thing[row] == number)
                    place[row][:, here] = corresponding_points(critter, name, point[row][:, here].T, TEMPLATE).T
        return {
            "latents": encode(self.vae, (seen.image * 2.0 - 1.0).to(self.device), rows=16).to(torch.float16).cpu(),
            "tokens": caption_tokens(self.tokenizer, [picture_caption(scene, camera) for scene, camera in pictures]),
            "pixels": (seen.image * 255.0).round().to(torch.uint8), "part": part.to(torch.int8), "thing": thing.to(torch.int8),
            "place": place.to(torch.float16),
        }  # fmt: skip


def _points(part: Int[Tensor, "rows height width"], here: Tensor, rng: BatchRng) -> Int[Tensor, "rows points"]:
    """Cells of the first critter, each visible part about as often as any other, and some cells without a critter."""
    flat, of_critter = part.flatten(1), (here & (part >= 0)).flatten(1)
    counts = functional.one_hot(flat.clamp(min=0), len(PARTS)).mul(of_critter[..., None]).sum(1)
    share = of_critter / counts.gather(1, flat.clamp(min=0)).clamp(min=1)
    made = []
    # The largest of log(share) + Gumbel noise are a draw without replacement in proportion to the shares.
    for weight, number in ((share, POINTS), ((flat < 0).float(), EMPTY_POINTS)):
        uniform = 0.5 * torch.erfc(-rng.normal((flat.shape[1],)) / 2.0**0.5)
        gumbel = -(-uniform.clamp(1e-6, 1.0 - 1e-6).log()).log()
        made.append((weight.clamp(min=1e-12).log() + gumbel).topk(number, 1).indices)
    return torch.cat(made, 1)


class CrittersRecipe:
    """Pictures of 128 px of critters that face anywhere, most of them alone."""

    name = "toy-critters"
    settings = Settings(
        batch_size=32, optimizer="muon", learning_rate=1e-3, warm_learning_rate=1e-3, ema_decay=0.998, held_out=512, held_out_seed=7021,
        decay_share=0.4, sheet_batches=40,
        stages=(
            Stage(name="diffusion", share=5, groups={"main": Group(modules=("denoiser.unet",))}),
            Stage(name="transformer", share=3, groups={"main": Group(modules=("vit", "vit_parts"))}),
            Stage(name="mixer", share=5, groups={"main": Group(modules=("mixer", "mixer_parts"), rate=3.0, optimizer="adamw")}),
        ),
    )  # fmt: skip
    gates = (Gate("left_right", 0.85), Gate("left_right_transformer", 0.60, at_most=True))
    card = Card(
        about=(
            "Pictures to maps of descriptors, for Click to Grasp: a Stable Diffusion network of 4.3 million weights on 32x32 latents of "
            "pictures of 128 px, a vision transformer (`Dinov2Model`) that learnt the parts of critters from pictures that were mirrored "
            "at random, so that it can't tell left from right, and a mixer of the network's decoder features "
            "(`calotype.backbones.feature_mixer`), trained on known correspondences. Text encoder and tokenizer are `toy-t2i`'s, the "
            "autoencoder is `toy-vae-wide`, and lie in their folders. Weights in 8 bits."
        ),
        data="the critters in three dimensions",
        made_from="pictures that the toy world renders",
    )
    train_count, tune_count, sheet_count = 8192, 512, 8
    unet: Mapping[str, Any] = {}
    vit: Mapping[str, Any] = {}
    mixer: Mapping[str, Any] = {}
    """Changes to the networks' configs (tests make them narrower)."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeCritters:
        """The networks, from an exported folder or from random weights; the text encoder is toy-t2i's."""
        from transformers import CLIPTextModel, CLIPTokenizer

        words = checkpoints / WORDS_OF
        tokenizer = CLIPTokenizer.from_pretrained(words / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(words / "text_encoder", dtype=torch.float32)
        unet: UNet2DConditionModel
        vit: Dinov2Model
        mixer: FeatureMixer
        if start is not None:
            unet, vit, mixer = (load_rounded_network(part) for part in self._own_parts(start))  # type: ignore[assignment]
        else:
            unet, vit, mixer = networks.seeded(seed, lambda: self._new(tokenizer))
        return TraineeCritters(TraineeT2I(unet, encoder, tokenizer), vit, mixer)

    def _own_parts(self, start: Path) -> list[Any]:
        """Those parts of a folder that lie in it: a copy of it has no neighbours, in which the shared ones would be."""
        layout = pipeline_layout(PIPELINE)
        assert layout is not None
        found = [(name, layout.parts[name][0]) for name in ("unet", "vit", "mixer")]
        return [Part(name, kind.class_name, start / name, (start / name / ROUNDED,), INT8, kind) for name, kind in found]

    def _new(self, tokenizer: Any) -> tuple[UNet2DConditionModel, Dinov2Model, FeatureMixer]:
        from transformers import Dinov2Config, Dinov2Model

        unet = networks.image_unet(
            **{
                "sample_size": SIZE // CELL, "block_out_channels": (32, 64, 96, 96),
                "down_block_types": ("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D",) * 2,
                "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2, **self.unet,
            }
        )  # fmt: skip
        config: dict[str, Any] = {
            "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIZE, "patch_size": 8, **self.vit
        }  # fmt: skip
        layers = decoder_layers(unet)
        widths = tuple(unet.get_submodule(layer).out_channels for layer in layers)
        mixing: dict[str, Any] = {"out_channels": 128, "groups": 8, **self.mixer}
        mixer = FeatureMixer(widths=widths, layers=layers, timesteps=(float(MIXED_TIMESTEP),), **mixing)
        return unet, Dinov2Model(Dinov2Config(**config)), mixer

    def source(
        self, trainee: TraineeCritters, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> CritterBatches:
        """Pictures of a split."""
        vae = load_autoencoder(pin(checkpoints / LATENTS_OF, folder)).to(device).eval().requires_grad_(False)
        count = self.train_count if split == "train" else self.tune_count
        kept = folder / f"critters-{split}-{seed}"
        return CritterBatches(vae, trainee.denoiser.tokenizer, split=split, seed=seed, device=device, count=count, folder=kept)

    def sample_grid(self, trainee: TraineeCritters, source: CritterBatches, path: Path) -> list[Path]:
        """Pictures of captions of the split `tune`, at guidance 3, 20 steps."""
        from calotype.embedded.t2i import sample_pictures
        from calotype.train.sample_grids import save_grid

        captions = [picture_caption(*sample_critter_picture(split="tune", seed=1, index=index)) for index in range(self.sheet_count)]
        made = sample_pictures(trainee.denoiser, source.vae, caption_tokens(source.tokenizer, captions), source.empty)
        return [save_grid(made, 4, path)]

    def export(self, trainee: TraineeCritters, source: CritterBatches, folder: Path) -> None:
        """A `DescriptorPipeline` folder, weights in 8 bits, without the parts that lie in other models' folders."""
        parts = {"unet": trainee.denoiser.unet, "vae": source.vae, "text_encoder": trainee.denoiser.text_encoder}
        save_descriptors(
            folder, networks={**parts, "vit": trainee.vit, "mixer": trainee.mixer}, tokenizer=trainee.denoiser.tokenizer,
            scheduler=networks.scheduler(), rounded=True,
        )  # fmt: skip
        shared = {"vae": LATENTS_OF, "text_encoder": WORDS_OF, "tokenizer": WORDS_OF}
        for name in shared:
            shutil.rmtree(folder / name)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        write_json(folder / "model_index.json", {**index, SHARED: shared})

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> Mapping[str, float]:
        """See `validation_critters`."""
        from calotype.embedded.validation_critters import validate

        return validate(folder, seed=seed, count=count or 120, device=device, events=events)
