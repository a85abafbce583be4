"""The recipe of `toy-t2i`: caption to picture, with Stable Diffusion's classes, noise schedule and v-prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.core.denoiser import Preconditioner, Rates
from calotype.core.events import Events
from calotype.core.schedule import VPSchedule
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.embedded.tokenizer import build_tokenizer, caption_tokens, world_words
from calotype.train.latents import Chunks, encode, frozen_vae
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.world import paint, sample_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

CAPTION_DROPOUT = 0.15
EMPTY_EVERY = 12
"""Every twelfth picture is a ground with nothing on it: whoever takes things out of pictures needs a model that knows such grounds."""
SNR_CAP, LEAST_WEIGHT = 5.0, 0.3


class TraineeT2I(nn.Module):
    """UNet and text encoder, trained together; the loss is the squared error of v, weighted by min(SNR, 5) / (SNR + 1) but at least 0.3.

    Min-SNR weighting (Hang et al., 2023) for v-prediction; the floor keeps the low noise levels, where edges are made, alive.
    """

    alphas: Tensor

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.tokenizer = unet, text_encoder, tokenizer
        self.preconditioner = Preconditioner("v_prediction", VPSchedule(networks.alphas_cumprod()).t)
        self.register_buffer("alphas", networks.alphas_cumprod().float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`latents` and `noise` [B, 4, h, w]; `timesteps` [B] int64; `tokens` [B, 24] int64."""
        alpha = self.alphas[batch["timesteps"]].view(-1, 1, 1, 1)
        network_input, target = self.preconditioner.example(batch["latents"], batch["noise"], Rates.of_alpha(alpha))
        predicted = self.unet(network_input, batch["timesteps"], self.states(batch)).sample
        snr = (alpha / (1.0 - alpha)).flatten()
        weight = (snr.clamp(max=SNR_CAP) / (snr + 1.0)).clamp(min=LEAST_WEIGHT)
        losses: Tensor = weight * (predicted.float() - target).square().flatten(1).mean(1)
        return losses

    def states(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch length width"]:
        """What the UNet's cross attention reads."""
        states: Tensor = self.text_encoder(batch["tokens"])[0]
        return states


class CaptionedLatents:
    """Latents and caption tokens of single pictures."""

    def __init__(
        self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, *, split: str, seed: int, device: str, count: int, folder: Path
    ) -> None:
        self.vae, self.tokenizer, self.split, self.seed, self.device = vae, tokenizer, split, seed, device
        self.count = count
        self.chunks = Chunks(self._make, count=count, chunk=min(256, count), folder=folder)
        self.empty = caption_tokens(tokenizer, [""])[0]

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        scenes = [
            sample_scene("small", split=self.split, seed=self.seed, index=index, objects=None if index % EMPTY_EVERY else 0)
            for index in range(first, first + count)
        ]
        latents = encode(self.vae, paint(scenes, size=networks.SIZE, device=self.device) * 2.0 - 1.0)
        return {"latents": latents.to(torch.float16).cpu(), "tokens": caption_tokens(self.tokenizer, [scene.caption for scene in scenes])}

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        made = self.chunks.rows(rows)
        tokens, latents = made["tokens"], made["latents"].float()
        if augment:
            tokens = torch.where((rng.uniform() < CAPTION_DROPOUT)[:, None], self.empty, tokens)
        timesteps = (rng.stratified() * networks.SCHEDULE["num_train_timesteps"]).long()
        batch = {"latents": latents, "noise": rng.normal(latents.shape[1:]), "timesteps": timesteps, "tokens": tokens.long()}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


class T2IRecipe:
    """64 px pictures of the world's `small` preset and their captions."""

    name = "toy-t2i"
    settings = Settings(
        batch_size=32, optimizer="muon", learning_rate=8e-4, warm_learning_rate=6e-4, ema_decay=0.998, held_out_seed=7002, sheet_batches=45
    )  # fmt: skip
    gates = (
        Gate("found_one_object", 0.80),
        Gate("found_two_objects", 0.60),
        Gate("background", 0.95),
        Gate("attention_iou", 0.50),
        Gate("inversion_loss_db", 1.5, at_most=True),
        Gate("inverted_noise_std_error", 0.1, at_most=True),
        Gate("seed_distance", 0.05),
    )
    card = Card(
        about="Caption to picture of the toy world: a `StableDiffusionPipeline` folder, v-prediction, min-SNR weights.",
        library="diffusers",
    )
    train_count = 204_800
    tune_count = 1024
    sheet_count = 24
    unet: Mapping[str, Any] = {}
    text: Mapping[str, Any] = {}
    """Changes to the networks' configs (tests make them narrower)."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeT2I:
        """UNet, text encoder and tokenizer, from an exported folder or from random weights."""
        if start is None:
            tokenizer = build_tokenizer(world_words())
            unet = networks.seeded(seed, lambda: networks.image_unet(**self.unet))
            return TraineeT2I(unet, networks.seeded(seed + 1, lambda: networks.text_encoder(tokenizer, **self.text)), tokenizer)
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        return TraineeT2I(unet, encoder, CLIPTokenizer.from_pretrained(start / "tokenizer"))

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> CaptionedLatents:
        """Captioned latents of a split, kept under the run's data folder."""
        vae, mark = frozen_vae(folder, checkpoints, start, device)
        count = self.train_count if split == "train" else self.tune_count
        kept = folder / f"pictures-small-{EMPTY_EVERY}-{split}-{seed}-{mark}"
        return CaptionedLatents(vae, trainee.tokenizer, split=split, seed=seed, device=device, count=count, folder=kept)

    def sample_grid(self, trainee: TraineeT2I, source: CaptionedLatents, path: Path) -> list[Path]:
        """Captions of the `tune` split at guidance 3, 20 steps."""
        from calotype.train.sample_grids import save_grid

        captions = [sample_scene("small", split="tune", seed=1, index=i).caption for i in range(self.sheet_count)]
        return [save_grid(sample_pictures(trainee, source.vae, caption_tokens(source.tokenizer, captions), source.empty), 8, path)]

    def export(self, trainee: TraineeT2I, source: CaptionedLatents, folder: Path) -> None:
        """A folder that `StableDiffusionPipeline.from_pretrained` loads."""
        from diffusers import StableDiffusionPipeline

        scheduler = networks.scheduler()
        pipeline = StableDiffusionPipeline(
            vae=source.vae, text_encoder=trainee.text_encoder, tokenizer=trainee.tokenizer, unet=trainee.unet, scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, safe_serialization=True)

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `validation_t2i`."""
        from calotype.embedded.validation_t2i import validate

        return validate(folder, seed=seed, count=count or 200, device=device, events=events)


@torch.no_grad()
def sample_pictures(
    trainee: TraineeT2I, vae: AutoencoderKL, tokens: Tensor, empty: Tensor, *, steps: int = 20, guidance: float = 3.0
) -> Tensor:
    """Pictures [N, 3, H, W] in [0, 1] for token rows, by DDIM with classifier-free guidance; the noise is always the same."""
    rows = torch.cat([tokens, empty[None].expand(len(tokens), -1)]).long().to(trainee.alphas.device)
    return sample_states(trainee, vae, trainee.text_encoder(rows)[0], steps=steps, guidance=guidance)


@torch.no_grad()
def sample_states(
    trainee: TraineeT2I, vae: AutoencoderKL, states: Float[Tensor, "rows length width"], *, steps: int, guidance: float
) -> Tensor:
    """The same for what the cross attention reads: the first half of the rows conditional, the other unconditional."""
    from calotype.core.noise import batch_noise
    from calotype.embedded.sampling import sample_network

    count = len(states) // 2
    alphas = networks.alphas_cumprod()
    levels = ((1 - alphas) / alphas).sqrt()
    times = torch.linspace(999, 0, steps + 1)[:-1].round().long()
    lookup = {float(levels[time]): int(time) for time in times}

    def network(x: Tensor, sigma: float) -> Tensor:
        output = trainee.unet(torch.cat([x, x]), lookup[sigma], states).sample
        conditional, unconditional = output.chunk(2)
        guided: Tensor = unconditional + guidance * (conditional - unconditional)
        return guided

    size = trainee.unet.config.sample_size
    noise = batch_noise((trainee.unet.config.in_channels, size, size), 0, count).to(states.device)
    sigmas = torch.cat([levels[times], torch.zeros(1, dtype=torch.float64)])
    latents = sample_network(network, trainee.preconditioner, noise, sigmas)
    return torch.cat([vae.decode(part).sample for part in latents.split(16)]).clamp(-1, 1) / 2 + 0.5
