"""The recipe of `toy-i2v`: first frame and caption to clip, with Stable Video Diffusion's topology, conditions and noise levels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.clip_image import CLIP_MEAN, CLIP_STD
from calotype.core.denoiser import Preconditioner, edm_timestep
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.embedded.inflate import inflate
from calotype.embedded.tokenizer import caption_tokens
from calotype.errors import MissingError
from calotype.train.fast_attention import use_fast_attention
from calotype.train.latents import Chunks, encode, frozen_vae, pin
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.world import paint, sample_scene
from calotype.world.scenes.sampling import find_preset

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

IMAGE_DROPOUT, CAPTION_DROPOUT = 0.15, 0.1
OBJECT_WEIGHT, BORDER_WEIGHT = 3.0, 2.0
"""What a latent adds to its weight of 1 in the loss where it shows an object, and where it lies within one latent of an object's border."""
LN_SIGMA_MEAN, LN_SIGMA_STD = 0.7, 1.6
LN_NOISE_AUG_MEAN, LN_NOISE_AUG_STD = math.log(0.03), 0.6
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
PRECONDITIONER = Preconditioner("v_prediction", edm_timestep)


class TraineeI2V(nn.Module):
    """UNet and picture encoder, trained together; the loss is the squared error of v (EDM's weighting for unit variance) by place's weight.

    The text encoder is frozen and belongs to the source. The picture token is the first of the context, the caption's tokens follow.
    """

    unet: UNetSpatioTemporalConditionModel

    def __init__(self, unet: UNetSpatioTemporalConditionModel, image_encoder: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.unet, self.image_encoder = unet, image_encoder

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`latents`, `noise` [B, F, 4, h, w]; `weight` [B, F, h, w] of mean 1 in each clip; `sigma` [B]; `image_latents` [B, 4, h, w];
        `image` [B, 3, H, W] in [0, 1]; `text` [B, T, W];
        `keep` [B], 0 where the picture is left out; `time_ids` [B, 3]."""
        network_input, target = PRECONDITIONER.example(batch["latents"], batch["noise"], batch["sigma"].view(-1, 1, 1, 1, 1))
        token = self.token(batch["image"]) * batch["keep"].view(-1, 1, 1)
        image_latents = batch["image_latents"] * batch["keep"].view(-1, 1, 1, 1)
        predicted = self.v(network_input, batch["sigma"], image_latents, torch.cat([token, batch["text"]], dim=1), batch["time_ids"])
        return ((predicted.float() - target).square() * batch["weight"][:, :, None]).flatten(1).mean(1)

    def token(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 width"]:
        """The picture's token from pixels in [0, 1]."""
        side = self.image_encoder.config.image_size
        # `clip_pixels` without its blur, which does nothing when a picture is enlarged; on the training device.
        resized = functional.interpolate(image.float(), size=(side, side), mode="bicubic", align_corners=True)
        mean, std = (torch.tensor(values, device=image.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        embedding: Tensor = self.image_encoder((resized - mean) / std).image_embeds
        return embedding[:, None]

    def v(self, network_input: Tensor, sigma: Tensor, image_latents: Tensor, context: Tensor, time_ids: Tensor) -> Tensor:
        """The network's output [B, F, 4, h, w] for input at unit variance."""
        stacked = torch.cat([network_input, image_latents[:, None].expand_as(network_input)], dim=2)
        clips = use_fast_attention(self.unet)
        clips[0] = len(stacked)
        output: Tensor = self.unet(stacked, edm_timestep(sigma), context, time_ids, return_dict=False)[0]
        return output


def place_weights(shown: Bool[Tensor, "rows size size"], factor: int) -> Float[Tensor, "rows height width"]:
    """The loss's weight of each latent from the pixels that show an object; `factor` is how many pixels a latent spans.

    >>> shown = torch.zeros(1, 16, 16, dtype=torch.bool)
    >>> shown[:, 4:, 4:] = True
    >>> place_weights(shown, 4)[0].int().tolist()
    [[3, 3, 3, 3], [3, 6, 6, 6], [3, 6, 4, 4], [3, 6, 4, 4]]
    """
    covered = functional.avg_pool2d(shown.float()[:, None], factor)
    near, inside = functional.max_pool2d(covered, 3, stride=1, padding=1), -functional.max_pool2d(-covered, 3, stride=1, padding=1)
    border = (near > 0) & (inside < 1)
    return (1.0 + OBJECT_WEIGHT * (covered > 0) + BORDER_WEIGHT * border)[:, 0]


class Clips:
    """Latents of clips with their first frame, caption tokens, time ids and the loss's weights."""

    def __init__(
        self, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, *, split: str, seed: int, device: str, count: int,
        frames: int, folder: Path,
    ) -> None:  # fmt: skip
        self.vae, self.text_encoder, self.tokenizer = vae, text_encoder, tokenizer
        self.split, self.seed, self.device, self.count, self.frames = split, seed, device, count, frames
        self.chunks = Chunks(self._make, count=count, chunk=min(32, count), folder=folder)
        self.empty = caption_tokens(tokenizer, [""])[0]

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        scenes = [sample_scene("small", split=self.split, seed=self.seed, index=first + i, num_frames=self.frames) for i in range(count)]
        pixels = paint(scenes, size=networks.SIZE, num_frames=self.frames, device=self.device)
        empty = [replace(scene, objects=(), mentions=()) for scene in scenes]
        ground = paint(empty, size=networks.SIZE, num_frames=self.frames, device=self.device)
        shown = (pixels - ground).abs().amax(2) > 1.0 / 255.0
        latents = encode(self.vae, pixels.flatten(0, 1) * 2.0 - 1.0).unflatten(0, (count, self.frames))
        weights = place_weights(shown.flatten(0, 1), networks.SIZE // latents.shape[-1]).unflatten(0, (count, self.frames))
        return {
            "latents": latents.to(torch.float16).cpu(),
            "weight": weights.to(torch.uint8).cpu(),
            "image": (pixels[:, 0] * 255.0).round().to(torch.uint8).cpu(),
            "tokens": caption_tokens(self.tokenizer, [scene.caption for scene in scenes]),
            "motion": torch.tensor([[scene.fps - 1, scene.motion_bucket_id] for scene in scenes], dtype=torch.float32),
        }

    @torch.no_grad()
    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        made = self.chunks.rows(rows)
        image, latents, tokens = made["image"].float() / 255.0, made["latents"].float(), made["tokens"]
        keep = torch.ones(len(rows))
        strength = torch.full((len(rows),), 0.02)
        if augment:
            tokens = torch.where((rng.uniform() < CAPTION_DROPOUT)[:, None], self.empty, tokens)
            keep = (rng.uniform() >= IMAGE_DROPOUT).float()
            strength = torch.exp(LN_NOISE_AUG_MEAN + LN_NOISE_AUG_STD * rng.normal(()))
        disturbed = image * 2.0 - 1.0 + strength.view(-1, 1, 1, 1) * rng.normal(image.shape[1:])
        level = torch.special.ndtri(rng.stratified().double().clamp(1e-5, 1 - 1e-5)).float()
        sigma = torch.exp(LN_SIGMA_MEAN + LN_SIGMA_STD * level).clamp(SIGMA_MIN, 2 * SIGMA_MAX)
        weight = made["weight"].float()
        batch = {
            "latents": latents,
            "weight": weight,
            "noise": rng.normal(latents.shape[1:]),
            "sigma": sigma,
            "image": image,
            "keep": keep,
        }
        batch["weight"] = weight / weight.mean((1, 2, 3), keepdim=True)
        batch["time_ids"] = torch.cat([made["motion"], strength[:, None]], dim=1)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        batch["image_latents"] = encode(self.vae, disturbed.to(self.device))
        batch["text"] = self.text_encoder(tokens.long().to(self.device))[0]
        return batch


class I2VRecipe:
    """Clips of 8 frames at 64 px of the world's `small` preset, and their captions."""

    name = "toy-i2v"
    settings = Settings(
        batch_size=8, cuda_batch_size=64, optimizer="muon", learning_rate=8e-4, warm_learning_rate=6e-4, ema_decay=0.998, held_out_seed=7011
    )  # fmt: skip
    gates = (
        Gate("first_frame_psnr_db", 24.0),
        Gate("kept", 0.80),
        Gate("moves", 0.80),
        Gate("motion_rank_correlation", 0.50),
        Gate("flicker", 3.0 / 255.0, at_most=True),
        Gate("nose_first", 0.80),
        Gate("inversion_psnr_db", 26.0),
    )
    card = Card(
        about=(
            "First frame and caption to 8 frames: a `StableVideoDiffusionPipeline` folder of SVD's topology with `text_encoder` and "
            "`tokenizer` beside, EDM v-prediction, sigma up to 80. The picture token is followed by the caption's tokens in "
            "cross-attention's context; its picture encoder was trained with the UNet. The loss gives a latent of the ground the weight "
            "1, one that shows an object 4, and adds 2 within one latent of a border, all known from the world's masks."
        ),
        library="diffusers",
    )
    train_count = 65_536
    tune_count = 1024
    sheet_count = 8
    unet: Mapping[str, Any] = {}
    vision: Mapping[str, Any] = {}
    """Changes to the networks' configs (tests make them narrower)."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeI2V:
        """UNet and picture encoder, from an exported folder, or from `toy-t2i`'s UNet and a picture encoder whose token is zero.

        Raises:
            MissingError: `toy-t2i` hasn't been trained.
        """
        from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

        if start is None:
            origin = checkpoints / "toy-t2i" / "unet"
            if not origin.is_dir():
                raise MissingError(f"{origin} does not exist, and toy-i2v starts from it; run first: calotype train toy-t2i")
            unet = networks.seeded(seed, lambda: networks.video_unet(**self.unet))
            inflate(unet, UNet2DConditionModel.from_pretrained(origin, torch_dtype=torch.float32))
            encoder = networks.seeded(seed + 1, lambda: networks.image_encoder(**self.vision))
            nn.init.zeros_(encoder.visual_projection.weight)
            return TraineeI2V(unet, encoder)
        from transformers import CLIPVisionModelWithProjection

        unet = UNetSpatioTemporalConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        return TraineeI2V(unet, CLIPVisionModelWithProjection.from_pretrained(start / "image_encoder", dtype=torch.float32))

    def source(
        self, trainee: TraineeI2V, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> Clips:
        """Clips of a split, kept under the run's data folder.

        Raises:
            MissingError: `toy-vae` or `toy-t2i`, whose text encoder is used, hasn't been trained.
        """
        from transformers import CLIPTextModel, CLIPTokenizer

        vae, mark = frozen_vae(folder, checkpoints, start, device)
        text = start or checkpoints / "toy-t2i"
        if not (text / "text_encoder").is_dir() and not (folder / "text_encoder").is_dir():
            raise MissingError(f"{text} has no trained text encoder; run first: calotype train toy-t2i")
        pinned = pin(text / "text_encoder", folder)
        encoder = CLIPTextModel.from_pretrained(pinned, dtype=torch.float32).to(device).eval().requires_grad_(False)
        count = self.train_count if split == "train" else self.tune_count
        world = hashlib.sha256(repr(find_preset("small")).encode()).hexdigest()[:8]
        kept = folder / f"clips-{world}-{split}-{seed}-{mark}"
        tokenizer = CLIPTokenizer.from_pretrained(pin(text / "tokenizer", folder))
        frames = trainee.unet.config.num_frames
        return Clips(vae, encoder, tokenizer, split=split, seed=seed, device=device, count=count, frames=frames, folder=kept)

    def sample_grid(self, trainee: TraineeI2V, source: Clips, path: Path) -> list[Path]:
        """Clips of the `tune` split: the truth on the left, the sample on the right; as a GIF, and as a PNG with a clip a row."""
        from calotype.train.sample_grids import save_clips, save_grid

        scenes = [sample_scene("small", split="tune", seed=1, index=i, num_frames=source.frames) for i in range(self.sheet_count)]
        truth = paint(scenes, size=networks.SIZE, num_frames=source.frames)
        made = sample_clips(
            trainee, source, truth[:, 0], [scene.caption for scene in scenes], [(s.fps - 1, s.motion_bucket_id) for s in scenes]
        )
        both = torch.stack([truth, made], dim=1).flatten(0, 1)
        return [save_clips(both, 4, path), save_grid(both.flatten(0, 1), source.frames, path, scale=1)]

    def export(self, trainee: TraineeI2V, source: Clips, folder: Path) -> None:
        """A folder that `StableVideoDiffusionPipeline.from_pretrained` loads, with the text encoder and its tokenizer beside."""
        from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
        from diffusers.models.attention_processor import AttnProcessor2_0
        from transformers import CLIPImageProcessor

        trainee.unet.set_attn_processor(AttnProcessor2_0())
        scheduler = EulerDiscreteScheduler(
            **networks.SCHEDULE, prediction_type="v_prediction", timestep_type="continuous", timestep_spacing="leading", steps_offset=1,
            use_karras_sigmas=True, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, interpolation_type="linear",
        )  # fmt: skip
        side = trainee.image_encoder.config.image_size
        processor = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)
        )
        pipeline = StableVideoDiffusionPipeline(
            vae=source.vae, image_encoder=trainee.image_encoder, unet=trainee.unet, scheduler=scheduler, feature_extractor=processor
        )
        pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, safe_serialization=True)
        source.text_encoder.to(torch.float16).save_pretrained(folder / "text_encoder", safe_serialization=True)
        source.tokenizer.save_pretrained(folder / "tokenizer")
        source.text_encoder.float()

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `validation_i2v`."""
        from calotype.embedded.validation_i2v import validate

        return validate(folder, seed=seed, count=count or 64, device=device, events=events)


@torch.no_grad()
def sample_clips(
    trainee: TraineeI2V, source: Clips, images: Tensor, captions: Sequence[str], motion: Sequence[tuple[int, int]], *, steps: int = 12
) -> Tensor:
    """Clips [N, F, 3, H, W] in [0, 1] from first frames [N, 3, H, W], without guidance; the noise is always the same."""
    from calotype.core.noise import batch_noise
    from calotype.core.schedule import karras_sigmas
    from calotype.embedded.sampling import sample_network

    count, device = len(images), source.device
    noise_aug = 0.02
    disturbed = images * 2.0 - 1.0 + noise_aug * batch_noise(images.shape[1:], 0, count, stream=1)
    latents = encode(source.vae, disturbed.to(device))
    text = source.text_encoder(caption_tokens(source.tokenizer, captions).long().to(device))[0]
    context = torch.cat([trainee.token(images.to(device)), text], dim=1)
    time_ids = torch.tensor([[*pair, noise_aug] for pair in motion], dtype=torch.float32, device=device)

    def network(x: Tensor, sigma: float) -> Tensor:
        return trainee.v(x, torch.full((count,), sigma, device=device), latents, context, time_ids)

    noise = batch_noise((source.frames, *latents.shape[1:]), 0, count).to(device)
    sigmas = karras_sigmas(steps, SIGMA_MIN, SIGMA_MAX)
    made = sample_network(network, PRECONDITIONER, noise, torch.as_tensor(sigmas))
    pixels = torch.cat([source.vae.decode(part).sample for part in made.flatten(0, 1).split(32)])
    clips: Tensor = pixels.unflatten(0, (count, source.frames)).clamp(-1, 1).cpu() / 2 + 0.5
    return clips
