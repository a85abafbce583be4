"""Folders of the role SubjectToImage at small width: BLIP-Diffusion with the public checkpoint's config keys, and toy-subject."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import cached

QFORMER: dict[str, Any] = {
    "architectures": ["Blip2QFormerModel"],
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "model_type": "blip-2",
    "num_query_tokens": 4,
    "qformer_config": {
        "attention_probs_dropout_prob": 0.0, "cross_attention_frequency": 1, "encoder_hidden_size": 32, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0, "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 32, "model_type": "blip_2_qformer", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0,
        "position_embedding_type": "absolute", "vocab_size": 16,
    },
    "text_config": {"model_type": "opt"},
    "use_decoder_only_language_model": True,
    "vision_config": {
        "attention_dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 32, "image_size": 32, "initializer_range": 1e-10,
        "intermediate_size": 48, "layer_norm_eps": 1e-05, "model_type": "blip_2_vision_model", "num_attention_heads": 2,
        "num_hidden_layers": 2, "patch_size": 8, "qkv_bias": True,
    },
}  # fmt: skip


def tiny_blip(path: Path) -> Path:
    """BLIP-Diffusion: SD 1.5's networks, the text encoder under ContextCLIPTextModel's names, a Q-Former with a BERT tokenizer beside."""
    import shutil

    from transformers import Blip2Config

    from calotype.backbones.blip_qformer import BlipQFormer

    shutil.copytree(cached("sd"), path)
    weights = path / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    prefixed = {name if name.startswith("text_model.") else f"text_model.{name}": value for name, value in tensors.items()}
    save_file({**prefixed, "text_model.embeddings.position_ids": torch.arange(77)[None]}, weights)
    torch.manual_seed(5)
    model = BlipQFormer(Blip2Config.from_dict(json.loads(json.dumps(QFORMER))))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (path / "qformer").mkdir()
    (path / "qformer" / "config.json").write_text(json.dumps(QFORMER))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path / "qformer" / "model.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "ball", "house", "dog"]
    (path / "qformer_tokenizer").mkdir()
    (path / "qformer_tokenizer" / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "qformer_tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    index = json.loads((path / "model_index.json").read_text())
    for name in ("feature_extractor", "safety_checker", "requires_safety_checker"):
        index.pop(name, None)
    index |= {
        "_class_name": "BlipDiffusionPipeline", "_diffusers_version": "0.18.0.dev0", "ctx_begin_pos": 2,
        "image_processor": ["blip_diffusion", "BlipImageProcessor"], "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28],
        "qformer": ["blip_diffusion", "Blip2QFormerModel"], "text_encoder": ["blip_diffusion", "ContextCLIPTextModel"],
    }  # fmt: skip
    (path / "model_index.json").write_text(json.dumps(index, indent=2))
    return path


def tiny_toy_subject(path: Path) -> Path:
    """toy-subject in random weights: the toy text-to-image model's networks a tokenizer that knows creatures, a subject encoder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from calotype.backbones.subject_encoder import SubjectEncoder
    from calotype.backbones.toy_subject import save_parts
    from calotype.embedded import networks
    from calotype.embedded.subject import CREATURE_WORDS
    from calotype.embedded.tokenizer import build_tokenizer, world_words

    torch.manual_seed(6)
    base = cached("toy-t2i")
    tokenizer = build_tokenizer((*world_words(), *CREATURE_WORDS))
    save_parts(
        path, vae=AutoencoderKL.from_pretrained(base / "vae"), unet=UNet2DConditionModel.from_pretrained(base / "unet"),
        text_encoder=networks.text_encoder(tokenizer, hidden_size=64, intermediate_size=128), tokenizer=tokenizer,
        subject_encoder=SubjectEncoder(width=64, channels=(8, 8, 16, 16)), scheduler=networks.scheduler(),
    )  # fmt: skip
    return path


@functools.cache
def cached_subject(kind: str) -> Path:
    """The folder of one kind (`blip` or `toy-subject`), made at most once a process. Don't change it; copy it."""
    builder = {"blip": tiny_blip, "toy-subject": tiny_toy_subject}[kind]
    return builder(cached("sd").parent / f"tiny-{kind}")
