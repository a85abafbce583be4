"""BLIP-Diffusion's Q-Former: a picture and the subject's word to visual rows, on transformers' BLIP-2 blocks.

Only the blocks are transformers'; what joins them (text and picture embeddings, the norm before the picture's encoder, the projection) is
written here with the checkpoint's own names, because diffusers' `Blip2QFormerModel` needs parts of transformers that are gone. The word's
tokenizer (BERT's) is read from the folder, or from the cache; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.backbones.building import refuse_larger
from calotype.backbones.folder import Part
from calotype.backbones.headers import read_json
from calotype.errors import InputError, MissingError

TOKENIZER = "bert-base-uncased"
TOKENIZERS = ("qformer_tokenizer", "qformer")
"""Folders of the checkpoint in which the word's tokenizer may lie."""


class _TextEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, queries: Tensor) -> Tensor:
        words = self.word_embeddings(ids) + self.position_embeddings(torch.arange(ids.shape[1], device=ids.device))
        made: Tensor = self.LayerNorm(torch.cat([queries.expand(len(ids), -1, -1), words], dim=1))
        return made


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, side = config.hidden_size, config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = nn.Parameter(torch.randn(1, side * side + 1, width))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(pixels), -1, -1), patches], dim=1) + self.position_embedding


class _Vision(nn.Module):
    def __init__(self, config: Any) -> None:
        from transformers.models.blip_2.modeling_blip_2 import Blip2Encoder

        super().__init__()
        self.embeddings = _VisionEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Blip2Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.encoder(inputs_embeds=self.pre_layernorm(self.embeddings(pixels)))[0]
        made: Tensor = self.post_layernorm(states)
        return made


class _Projection(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.dense1(self.LayerNorm(x))
        made: Tensor = self.dense2(wide * torch.sigmoid(1.702 * wide)) + x
        return made


class BlipQFormer(nn.Module):
    """Picture and word ids to visual rows; parameter names are those of the public checkpoint.

    Args:
        config: a `Blip2Config`.
    """

    def __init__(self, config: Any) -> None:
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerEncoder

        super().__init__()
        reader, vision = config.qformer_config, config.vision_config
        reader.use_qformer_text_input = True
        for part in (reader, vision):
            part._attn_implementation = "eager"
        self.image_size = int(vision.image_size)
        self.embeddings = _TextEmbeddings(reader)
        self.visual_encoder = _Vision(vision)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, reader.hidden_size))
        self.proj_layer = _Projection(reader.hidden_size)
        self.encoder = Blip2QFormerEncoder(reader)

    def forward(self, pixels: Float[Tensor, "batch 3 side side"], ids: Int[Tensor, "batch words"]) -> Float[Tensor, "batch rows width"]:
        """Normalised pixels and the ids of the subject's word; no padding."""
        queries = self.query_tokens.shape[1]
        states = self.encoder(
            self.embeddings(ids, self.query_tokens), encoder_hidden_states=self.visual_encoder(pixels), query_length=queries
        )[0]
        made: Tensor = self.proj_layer(states[:, :queries])
        return made


def load_qformer(part: Part, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """`qformer` and `qformer_tokenizer` of a checkpoint; model_index.json says nothing about them.

    Raises:
        InputError: weights and config don't belong together.
        MissingError: the word's tokenizer isn't on this machine.
    """
    from safetensors.torch import load_file
    from transformers import Blip2Config

    config = read_json(part.folder / "config.json")
    refuse_larger(part.folder, part.weights, lambda: BlipQFormer(Blip2Config.from_dict(config)))
    model = BlipQFormer(Blip2Config.from_dict(config))
    tensors = {name: value for path in part.weights for name, value in load_file(path).items()}
    missing, _ = model.load_state_dict({name: value.to(dtype) for name, value in tensors.items()}, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing:
        raise InputError(f"{part.folder}: {len(missing)} tensors are missing in its weight files, such as {missing[0]}; fetch it again")
    tokenizer = _tokenizer(part.folder, config.get("tokenizer"))
    return {"qformer": model.to(dtype).eval().requires_grad_(False), "qformer_tokenizer": tokenizer}


def _tokenizer(folder: Path, named: Any) -> Any:
    from huggingface_hub import try_to_load_from_cache
    from transformers import BertTokenizer

    for place in TOKENIZERS:
        if (folder.parent / place / "vocab.txt").is_file() or (folder.parent / place / "tokenizer.json").is_file():
            return BertTokenizer.from_pretrained(folder.parent / place, local_files_only=True)
    name = str(named or TOKENIZER)
    # Asked without its files, transformers makes a tokenizer of no words.
    if isinstance(try_to_load_from_cache(name, "vocab.txt"), str):
        return BertTokenizer.from_pretrained(name, local_files_only=True)
    raise MissingError(
        f"the Q-Former of {folder.parent} reads the subject's word with the tokenizer {name}, which is not on this machine; "
        f"put its vocab.txt and tokenizer_config.json into {folder.parent / TOKENIZERS[0]}"
    )
