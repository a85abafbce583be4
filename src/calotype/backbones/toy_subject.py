"""The folder of `toy-subject`: a diffusers layout whose networks are stored in 8 bits, with a subject encoder beside.

model_index.json    `_class_name` is `ToySubjectPipeline`
unet, text_encoder, subject_encoder    config.json and model.int8.safetensors (`calotype.backbones.quantized`)
vae, tokenizer, scheduler    as in `toy-t2i`, of which the autoencoder is
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from calotype.backbones.folder import ROUNDED, open_checkpoint
from calotype.backbones.loading import load_rounded_network
from calotype.backbones.quantized import save_quantized
from calotype.backbones.subject_encoder import SubjectEncoder

PIPELINE = "ToySubjectPipeline"
NETWORKS = ("unet", "text_encoder", "subject_encoder")


def save_parts(
    folder: Path, *, vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, subject_encoder: SubjectEncoder, scheduler: Any
) -> None:
    """Write the folder; `scheduler` is a diffusers scheduler."""
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_config(folder / "unet")
    text_encoder.config.save_pretrained(folder / "text_encoder")
    subject_encoder.save_config(folder / "subject_encoder")
    for name, network in (("unet", unet), ("text_encoder", text_encoder), ("subject_encoder", subject_encoder)):
        save_quantized(network.state_dict(), folder / name / ROUNDED)
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    vae.to(torch.float16).save_pretrained(folder / "vae", safe_serialization=True)
    index = {
        "_class_name": PIPELINE,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "subject_encoder": ["calotype", "SubjectEncoder"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_parts(folder: Path) -> Mapping[str, Any]:
    """The networks in float32 and the tokenizer, for training to go on.

    Raises:
        InputError: config and weights don't belong together.
    """
    from transformers import CLIPTokenizer

    found = open_checkpoint(folder).parts
    parts: dict[str, Any] = {name: load_rounded_network(found[name]) for name in NETWORKS}
    return {**parts, "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)}
