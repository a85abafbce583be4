"""The recipe of `toy-subject`: caption and subject picture to picture, BLIP-Diffusion's conditioning on `toy-t2i`'s networks.

Three parts are trained together: a new subject encoder, and the UNet and text encoder of `toy-t2i`, which go on from its weights. A sample
is a creature on a ground and its caption; its subject picture is the same painting on a plain ground (70 %) or the same creature in another
pose and place (30 %). In the first case pose and place can be read off the subject picture, which is where a pose bias comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.context_text import encode_with_rows
from calotype.backbones.subject_encoder import SubjectEncoder
from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.embedded.t2i import TraineeT2I, sample_states
from calotype.embedded.tokenizer import build_tokenizer, caption_tokens, world_words
from calotype.errors import MissingError
from calotype.train.fast_attention import FastAttention
from calotype.train.latents import Chunks, encode, frozen_vae, pin
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.world import paint
from calotype.world.creatures.drawing import POSES, CreatureScene, on_plain_ground, sample_creature
from calotype.world.painting.rng import Rng as WorldDraws
from calotype.world.scenes.sampling import SPLITS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

CREATURE_WORDS: tuple[str, ...] = ("creature", "upright", "lying", "jumping", "curled", "facing")
"""What the tokenizer knows beside the toy world's words."""
BASE = "toy-t2i"
SAME_PICTURE = 0.7
"""Share of samples whose subject picture is the target itself on a plain ground."""
TEXT_DROPOUT, IMAGE_DROPOUT, BOTH_DROPOUT = 0.1, 0.1, 0.1
"""Shares of samples whose caption is only "a creature", that have no subject picture, and that have neither caption nor picture."""


class TraineeSubject(TraineeT2I):
    """UNet, text encoder and subject encoder, trained together with `toy-t2i`'s loss."""

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, subject_encoder: SubjectEncoder
    ) -> None:
        super().__init__(unet, text_encoder, tokenizer)
        self.subject_encoder = subject_encoder

    def states(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch length width"]:
        """`tokens` [B, 24] int64; `subjects` [B, 3, 64, 64] in [0, 1]; `has_subject` [B] bool."""
        rows = self.subject_encoder(batch["subjects"])
        return encode_with_rows(self.text_encoder, batch["tokens"], rows, has_rows=batch["has_subject"])


class SubjectPictures:
    """Latents, caption tokens and subject pictures of creatures."""

    def __init__(
        self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, *, split: str, seed: int, device: str, count: int, folder: Path
    ) -> None:
        self.vae, self.tokenizer, self.split, self.seed, self.device = vae, tokenizer, split, seed, device
        self.count = count
        self.chunks = Chunks(self._make, count=count, chunk=min(256, count), folder=folder)
        self.empty, self.bare = caption_tokens(tokenizer, ["", "a creature"])

    def _make(self, first: int, count: int) -> dict[str, Tensor]:
        scenes = [sample_creature(split=self.split, seed=self.seed, index=first + i) for i in range(count)]
        latents = encode(self.vae, paint(scenes, size=networks.SIZE, device=self.device) * 2.0 - 1.0)
        subjects = paint([subject_scene(scene) for scene in scenes], size=networks.SIZE, device=self.device)
        return {
            "latents": latents.to(torch.float16).cpu(),
            "tokens": caption_tokens(self.tokenizer, [scene.caption for scene in scenes]),
            "subjects": (subjects * 255.0).round().to(torch.uint8).cpu(),
        }

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        made = self.chunks.rows(rows)
        tokens, latents = made["tokens"], made["latents"].float()
        has_subject = torch.ones(len(tokens), dtype=torch.bool)
        if augment:
            share = rng.uniform()
            ends = [TEXT_DROPOUT, TEXT_DROPOUT + IMAGE_DROPOUT, TEXT_DROPOUT + IMAGE_DROPOUT + BOTH_DROPOUT]
            tokens = torch.where((share < ends[0])[:, None], self.bare, tokens)
            tokens = torch.where(((share >= ends[1]) & (share < ends[2]))[:, None], self.empty, tokens)
            has_subject = (share < ends[0]) | (share >= ends[2])
        timesteps = (rng.stratified() * networks.SCHEDULE["num_train_timesteps"]).long()
        batch = {
            "latents": latents, "noise": rng.normal(latents.shape[1:]), "timesteps": timesteps, "tokens": tokens.long(),
            "subjects": made["subjects"].float() / 255.0, "has_subject": has_subject,
        }  # fmt: skip
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def subject_scene(scene: CreatureScene) -> CreatureScene:
    """The subject picture that a training sample comes with; a function of the scene's numbers alone.

    >>> subject_scene(sample_creature(index=0)).background.name
    'plain'
    """
    rng = WorldDraws(SPLITS[scene.split], scene.seed, scene.index, 0)
    if rng.chance(SAME_PICTURE):
        return on_plain_ground(scene)
    return on_plain_ground(scene, rng.choice([pose for pose in POSES if pose != scene.creature.pose]))


class SubjectRecipe:
    """64 px pictures of creatures, their captions and subject pictures."""

    name = "toy-subject"
    settings = Settings(batch_size=32, optimizer="muon", learning_rate=6e-4, warm_learning_rate=6e-4, ema_decay=0.998, sheet_batches=45)
    gates = (
        Gate("found", 0.80),
        Gate("pose", 0.80),
        Gate("identity_error", 25.0, at_most=True),
        Gate("background", 0.95),
        Gate("caption_found", 0.80),
        Gate("caption_pose", 0.80),
    )
    card = Card(
        about=(
            "Subject picture and caption to picture, of creatures: BLIP-Diffusion's conditioning at small width. A subject encoder makes "
            'four rows that enter the text encoder after the start token and "a"; UNet and text encoder went on from `toy-t2i`. Subject '
            "pictures lie on a plain ground; 70 % of the training's were the target itself, which shows the pose. Weights are stored in "
            "8 bits with a scale for every 128 (`calotype.backbones.quantized`); the autoencoder is `toy-t2i`'s."
        ),
        data="creatures",
        made_from="pictures that the toy world paints (it begins with toy-t2i's weights)",
    )
    train_count = 61_440
    tune_count = 1024
    sheet_count = 24
    encoder: Mapping[str, Any] = {}
    """Changes to the subject encoder's config (tests make it narrower)."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeSubject:
        """UNet and text encoder of `toy-t2i` with a new subject encoder; all three from an exported folder where there is one.

        Raises:
            MissingError: `toy-t2i` isn't trained yet.
        """
        if start is not None:
            from calotype.backbones.toy_subject import load_parts

            parts = load_parts(start)
            return _fast(TraineeSubject(parts["unet"], parts["text_encoder"], parts["tokenizer"], parts["subject_encoder"]))
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        base = checkpoints / BASE
        if not base.is_dir():
            raise MissingError(f"{base} does not exist, and toy-subject is built on it; run first: calotype train {BASE}")
        old = CLIPTokenizer.from_pretrained(base / "tokenizer")
        tokenizer = build_tokenizer((*world_words(), *CREATURE_WORDS))
        text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
        networks.seeded(seed, lambda: widen_vocabulary(text_encoder, old, tokenizer))
        encoder = networks.seeded(
            seed + 1, lambda: SubjectEncoder(**{"size": networks.SIZE, "width": text_encoder.config.hidden_size, **self.encoder})
        )
        unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
        return _fast(TraineeSubject(unet, text_encoder, tokenizer, encoder))

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> SubjectPictures:
        """Creatures of a split, kept under the run's data folder."""
        vae, mark = frozen_vae(folder, checkpoints, pin(checkpoints / BASE, folder), device)
        count = self.train_count if split == "train" else self.tune_count
        kept = folder / f"creatures-{split}-{seed}-{mark}"
        return SubjectPictures(vae, trainee.tokenizer, split=split, seed=seed, device=device, count=count, folder=kept)

    def sample_grid(self, trainee: TraineeSubject, source: SubjectPictures, path: Path) -> list[Path]:
        """Rows of subject picture, its own pose's caption, another pose's caption with and without the subject; guidance 3, 20 steps."""
        from calotype.train.sample_grids import save_grid

        count = self.sheet_count // 4
        scenes = [sample_creature(split="tune", seed=1, index=i, pose=POSES[i % 6]) for i in range(count)]
        others = [sample_creature(split="tune", seed=1, index=i, pose=POSES[(i + 1 + i // 6) % 6]) for i in range(count)]
        subjects = paint([on_plain_ground(scene) for scene in scenes], size=networks.SIZE)
        own, other = ([scene.caption for scene in part] for part in (scenes, others))
        columns = [subjects]
        for captions, shown in ((own, True), (other, True), (other, False)):
            tokens = caption_tokens(source.tokenizer, captions)
            columns.append(sample_subjects(trainee, source.vae, tokens, subjects, source.empty, shown=shown).cpu())
        return [save_grid(torch.stack(columns, 1).flatten(0, 1), 8, path)]

    def export(self, trainee: TraineeSubject, source: SubjectPictures, folder: Path) -> None:
        """See `calotype.backbones.toy_subject`: what differs from `toy-t2i`."""
        from calotype.backbones.toy_subject import save_parts

        save_parts(
            folder, vae=source.vae, unet=trainee.unet, text_encoder=trainee.text_encoder, tokenizer=trainee.tokenizer,
            subject_encoder=trainee.subject_encoder, scheduler=networks.scheduler(),
        )  # fmt: skip

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `validation_subject`."""
        from calotype.embedded.validation_subject import validate

        return validate(folder, seed=seed, count=count or 96, device=device, events=events)


def _fast(trainee: TraineeSubject) -> TraineeSubject:
    trainee.unet.set_attn_processor(FastAttention(None))
    return trainee


@torch.no_grad()
def widen_vocabulary(encoder: CLIPTextModel, old: CLIPTokenizer, new: CLIPTokenizer) -> None:
    """Give a text encoder the new tokenizer's embeddings: rows of known tokens move along, new words get rows as wide as theirs."""
    before, numbers = encoder.get_input_embeddings().weight, old.get_vocab()
    table = nn.Embedding(len(new), before.shape[1])
    nn.init.normal_(table.weight, std=float(before.std()))
    for token, number in new.get_vocab().items():
        if token in numbers:
            table.weight[number] = before[numbers[token]]
    encoder.set_input_embeddings(table)
    for name, value in (("bos", new.bos_token_id), ("eos", new.eos_token_id), ("pad", new.pad_token_id)):
        setattr(encoder.config, f"{name}_token_id", value)
    encoder.config.vocab_size = len(new)
    encoder.eos_token_id = new.eos_token_id


@torch.no_grad()
def sample_subjects(
    trainee: TraineeSubject, vae: AutoencoderKL, tokens: Tensor, subjects: Tensor, empty: Tensor, *, shown: bool = True,
    steps: int = 20, guidance: float = 3.0,
) -> Tensor:  # fmt: skip
    """Pictures [N, 3, H, W] in [0, 1] by DDIM with classifier-free guidance; the noise is always the same.

    `tokens` [N, 24]; `subjects` [N, 3, 64, 64] in [0, 1]; `shown` false leaves the subjects out.
    """
    device, count = trainee.alphas.device, len(tokens)
    none = encode_with_rows(trainee.text_encoder, empty[None].long().to(device), None).expand(count, -1, -1)
    batch = {"tokens": tokens.long(), "subjects": subjects, "has_subject": torch.full((count,), shown)}
    states = trainee.states({name: value.to(device) for name, value in batch.items()})
    return sample_states(trainee, vae, torch.cat([states, none]), steps=steps, guidance=guidance)
