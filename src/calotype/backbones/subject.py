"""The role `SubjectToImage`: subject picture and prompt to picture, with visual rows among the words (BLIP-Diffusion, toy-subject)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.backbones.clip_image import CLIP_MEAN, CLIP_STD
from calotype.backbones.components import Components
from calotype.backbones.context_text import BEGIN, encode_with_rows, word_embeddings
from calotype.backbones.text_to_image import StableDiffusion
from calotype.core.roles import TextToImage
from calotype.data import fit
from calotype.imaging.types import Image
from calotype.world.creatures.drawing import PLAIN


@runtime_checkable
class SubjectToImage(TextToImage, Protocol):
    """Subject picture and prompt to picture: BLIP-Diffusion, toy-subject. Visual rows enter the text encoder among the words."""

    begin: int
    """Row of the conditioning at which the visual rows begin."""
    subject_word: str
    """What the subject is called where the user doesn't say; "" asks for a word."""
    plain_ground: tuple[float, float, float] | None
    """The sRGB ground that subject pictures must lie on; None takes any picture."""
    prompt_repetitions: int
    """How often the prompt is repeated, as the checkpoint was made for."""
    num_visual_rows: int
    """Of one subject."""
    text_length: int
    """Rows of a whole conditioning, the visual ones included."""
    special_ids: tuple[int, int, int]
    """Token ids of start, end and padding."""

    def subject_rows(self, subject: Image, word: str) -> Tensor:
        """The visual rows [1, num_visual_rows, width] of a subject that is called `word`."""
        ...

    def piece_ids(self, pieces: Sequence[str]) -> list[list[int]]:
        """The token ids of each word or mark, without start and end."""
        ...

    def word_rows(self, ids: Tensor) -> Tensor:
        """Word embeddings [B, n, width] of token ids [B, n], before the text encoder."""
        ...

    def encode_rows(self, ids: Tensor, rows: Tensor | None) -> Tensor:
        """Token ids [B, n], with visual rows among them, to what the cross attention reads: [B, text_length, width]."""
        ...


class SubjectDiffusion(StableDiffusion):
    """A Stable Diffusion model whose text encoder takes visual rows; `condition` alone is a plain prompt without a subject."""

    role = "SubjectToImage"
    stands_for = ("TextToImage",)
    subject_word = ""
    """What the subject is called where the user doesn't say; "" asks for a word."""
    plain_ground: tuple[float, float, float] | None = None
    """The sRGB ground that subject pictures must lie on; None takes any picture."""
    prompt_repetitions = 1
    """How often the prompt is repeated, as the checkpoint was made for."""

    def __init__(self, *arguments: Any, begin: int = BEGIN, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.begin = begin

    @property
    @abstractmethod
    def num_visual_rows(self) -> int:
        """How many visual rows a subject has."""

    @property
    def text_length(self) -> int:
        """Rows of a whole conditioning, the visual ones included."""
        return int(self.modules["text_encoder"].config.max_position_embeddings)

    @abstractmethod
    def subject_rows(self, subject: Image, word: str) -> Float[Tensor, "1 rows width"]:
        """The visual rows of a subject that is called `word`."""

    def piece_ids(self, pieces: Sequence[str]) -> list[list[int]]:
        """The token ids of each word or mark, without start and end."""
        tokenizer = self.modules["tokenizer"]
        return [list(tokenizer(piece, add_special_tokens=False).input_ids) for piece in pieces]

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """Start, end and padding."""
        tokenizer = self.modules["tokenizer"]
        return int(tokenizer.bos_token_id), int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)

    def word_rows(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """Word embeddings before the text encoder."""
        with torch.no_grad():
            return word_embeddings(self.modules["text_encoder"], ids.to(self.device)).float()

    def encode_rows(
        self, ids: Int[Tensor, "batch tokens"], rows: Float[Tensor, "batch rows width"] | None
    ) -> Float[Tensor, "batch length width"]:
        """What the cross attention reads: words, with visual rows from `begin` on where there are some."""
        encoder = self.modules["text_encoder"]
        with torch.no_grad():
            moved = None if rows is None else rows.to(self.device, encoder.dtype)
            return encode_with_rows(encoder, ids.to(self.device), moved, begin=self.begin).float()


class ToySubject(SubjectDiffusion):
    """toy-subject: creatures, on a small convolutional subject encoder."""

    subject_word = "creature"
    plain_ground = PLAIN

    @property
    def num_visual_rows(self) -> int:
        """Four."""
        return int(self.modules["subject_encoder"].config.tokens)

    def subject_rows(self, subject: Image, word: str) -> Float[Tensor, "1 rows width"]:
        """The encoder knows one kind of subject, so the word doesn't matter."""
        encoder = self.modules["subject_encoder"]
        side = encoder.config.size
        with torch.no_grad():
            rows: Tensor = encoder(fit(subject, (side, side)).pixels[None].to(self.device))
        return rows.float()


class BlipDiffusion(SubjectDiffusion):
    """Salesforce/blipdiffusion: a Q-Former reads the picture and the subject's word."""

    prompt_repetitions = 20

    def __init__(self, *arguments: Any, mean: Sequence[float], std: Sequence[float], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.mean, self.std = (torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        """Where the visual rows begin, and how the Q-Former's pictures are normalised."""
        index = found.index
        return {
            "begin": int(index.get("ctx_begin_pos", BEGIN)),
            "mean": index.get("mean") or CLIP_MEAN,
            "std": index.get("std") or CLIP_STD,
        }

    @property
    def num_visual_rows(self) -> int:
        """16 in the public checkpoint."""
        return int(self.modules["qformer"].query_tokens.shape[1])

    def subject_rows(self, subject: Image, word: str) -> Float[Tensor, "1 rows width"]:
        """The picture at the Q-Former's size, and its category's word."""
        qformer = self.modules["qformer"]
        side = qformer.image_size
        pixels = (fit(subject, (side, side)).pixels - self.mean) / self.std
        tokens: Mapping[str, Tensor] = self.modules["qformer_tokenizer"]([word], return_tensors="pt")
        with torch.no_grad():
            rows: Tensor = qformer(pixels[None].to(self.device, qformer.query_tokens.dtype), tokens["input_ids"].to(self.device))
        return rows.float()
