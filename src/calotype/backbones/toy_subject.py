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
from torch import nn

from calotype.backbones.building import refuse_larger
from calotype.backbones.folder import ROUNDED
from calotype.backbones.headers import read_json
from calotype.backbones.quantized import load_quantized, save_quantized
from calotype.backbones.subject_encoder import SubjectEncoder
from calotype.errors import InputError

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


def load_network(name: str, folder: Path) -> nn.Module:
    """One of the rounded networks from its own folder, in float32.

    Raises:
        InputError: config and weights don't belong together.
    """
    config = read_json(folder / "config.json")

    def make() -> nn.Module:
        made: nn.Module
        if name == "unet":
            from diffusers import UNet2DConditionModel

            made = UNet2DConditionModel.from_config(config)
        elif name == "text_encoder":
            from transformers import CLIPTextConfig, CLIPTextModel

            made = CLIPTextModel(CLIPTextConfig.from_dict(config))
        else:
            made = SubjectEncoder.from_config(config)
        return made

    refuse_larger(folder, [folder / ROUNDED], make)
    made = make()
    try:
        made.load_state_dict(load_quantized(folder / ROUNDED))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: config.json and weights don't belong together ({reason}); fetch the checkpoint again") from error
    return made


def load_parts(folder: Path) -> Mapping[str, Any]:
    """The networks in float32 and the tokenizer, for training to go on."""
    from transformers import CLIPTokenizer

    parts: dict[str, Any] = {name: load_network(name, folder / name) for name in NETWORKS}
    return {**parts, "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)}
