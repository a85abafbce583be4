"""Tokens fitted to annotated pictures: a vector in a word's place whose map is the mask, saved and loaded with its provenance.

The UNet, its projections and the text encoder stay as they are; only the rows that compete (the start token's and the words') are fitted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.untrusted import listed as listed_json
from calotype.core.untrusted import parse_json, short, text
from calotype.data.cache import content_key
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import atomic_path
from calotype.methods.ovam.maps import resize
from calotype.methods.ovam.queries import AttentionQueries
from calotype.methods.ovam.words import TokenQuery, WatchedModel, ask, attention_width, competing_rows, listed
from calotype.runs.artifact import ArtifactKind, contents

Loss = Literal["shares", "minmax"]
FORMAT = "calotype.ovam.token"
_LONGEST = 1_000_000
"""Characters of an entry of a token file's metadata, at most."""
PERFECT_MINMAX = math.log1p(math.exp(-1.0))
"""What the "minmax" loss is for a map that is the mask itself: logits 0 and 1 leave 0.313 (the official code's floor)."""


@dataclass(frozen=True, eq=False)
class Token:
    """Vectors that stand for words: row 0 for all that is none of them, then one for each. They belong to one model and to one another."""

    words: tuple[str, ...]
    embeddings: Float[Tensor, "rows channels"]
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How it was fitted: model, context, loss, steps, final loss, number of pictures, branch."""

    def question(self, model: WatchedModel, competing_phrases: Sequence[Sequence[str]] = ()) -> TokenQuery:
        """What to ask a look.

        Args:
            model: the one that it was fitted on, or one with the same text encoder and projections.
            competing_phrases: phrases that compete, as in `AttentionQueries.maps`; best those that it was fitted with.

        Raises:
            InputError: the vectors have not the width that the model's attention reads.
        """
        width = attention_width(model)
        if self.embeddings.shape[1] != width:
            made = self.provenance.get("model", "another model")
            raise InputError(
                f"the token of {', '.join(self.words)} has width {self.embeddings.shape[1]}, fitted on {made}; this model reads {width}"
            )
        bare = TokenQuery(
            self.words, self.embeddings[None].float().to(model.device), tuple((row,) for row in range(1, len(self.words) + 1))
        )
        return bare.against([competing_rows(model, phrases, self.words) for phrases in competing_phrases])

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a safetensors file: the tensor `embeddings`, and words and provenance as its metadata.

        Raises:
            InputError: the file exists and `overwrite` is false, or its name doesn't end in .safetensors.
        """
        from safetensors.torch import save_file

        check_token_path(path)
        told = {"format": FORMAT, "words": json.dumps(list(self.words)), **dict(self.provenance)}
        with atomic_path(path, overwrite) as temporary:
            save_file({"embeddings": self.embeddings.contiguous().float().cpu()}, temporary, metadata=told)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Token:
        """Read what `save` wrote.

        Raises:
            InputError: the file isn't there, is damaged, or is no token.
        """
        from safetensors import SafetensorError, safe_open

        source = plain_file(path, "token")
        subject = f"token: {source.name}"
        try:
            with safe_open(source, framework="pt") as file:
                told = dict(file.metadata() or {})
                embeddings = file.get_tensor("embeddings")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{subject} is no token file ({short(error)}); give one that --save-token wrote") from None
        if told.pop("format", "") != FORMAT:
            raise InputError(f"{subject} is no token file; give one that --save-token wrote")
        told = {text(name, subject): text(value, f"{subject}: {short(name)}", most=_LONGEST) for name, value in told.items()}
        listing = parse_json(told.pop("words", ""), f"{subject}: words", "give one that --save-token wrote")
        words = tuple(text(word, f"{subject}: words", most=200) for word in listed_json(listing, f"{subject}: words", most=1000))
        if embeddings.ndim != 2 or embeddings.shape[0] != len(words) + 1 or not embeddings.is_floating_point():
            raise InputError(f"{subject} holds {list(embeddings.shape)[:8]} for {len(words)} words; give one that --save-token wrote")
        if not words or not embeddings.numel() or not bool(embeddings.isfinite().all()):
            raise InputError(f"{subject} holds no words, or values that are no numbers; fit the token again")
        return cls(words, embeddings.float(), told)


def _read(path: str | os.PathLike[str], *, name: str = "token", events: Events = SILENT) -> Token:
    return Token.load(path)


def _write(token: Token, path: Path, metadata: Mapping[str, str]) -> None:
    token.save(path, overwrite=True)


def _digest(token: Token) -> str:
    return content_key({"words": list(token.words), "provenance": dict(token.provenance)}, {"embeddings": token.embeddings.float()})


TOKEN = ArtifactKind(
    name="token",
    type=Token,
    phrase="a token",
    suffix=".safetensors",
    read=_read,
    write=_write,
    digest=_digest,
    metadata=contents(lambda token: f"{len(token.words)} words of width {token.embeddings.shape[1]}"),
)


def check_token_path(path: str | os.PathLike[str]) -> None:
    """Refuse a name that no token file can have.

    Raises:
        InputError: it doesn't end in .safetensors.
    """
    if not os.fspath(path).endswith(".safetensors"):
        raise InputError(f"{os.fspath(path)}: a token is written as safetensors; give a name that ends in .safetensors")


def fit_token(
    look: AttentionQueries,
    words: str | Sequence[str],
    masks: Bool[Tensor, "batch words height width"],
    *,
    context: str = "{}",
    competing_phrases: Sequence[Sequence[str]] = (),
    fit_rest: bool = True,
    loss: Loss = "shares",
    num_steps: int = 100,
    learning_rate: float = 0.02,
    decay_steps: int = 120,
    decay: float = 0.7,
    branch: str = "",
    events: Events = SILENT,
) -> Token:
    """Fit the vectors of some words, and of the rest, to masks of pictures that were looked at. The UNet isn't run.

    Args:
        look: with its queries.
        words: one or several that compete.
        masks: of each word in each picture, of any one size; a word's mask may be empty in some pictures.
        context: text that the words' first vectors are read from, see `calotype.methods.ovam.words.ask`.
        competing_phrases: phrases that compete and stay as they are, as in `AttentionQueries.maps`.
        fit_rest: fit the start token's row, too (official), or leave it.
        loss: "shares": cross-entropy of the shares themselves, with Adam. "minmax": the official code's, cross-entropy with the min-max
            scaled map as logits, with plain gradient descent (there: learning_rate 100, 800 steps, decay 0.7 each 120).
        num_steps: gradient steps.
        learning_rate: of the first step.
        decay_steps, decay: the learning rate is multiplied by `decay` each so many steps.
        branch: whose queries the look has, for the provenance.
        events: hears steps, and the metric `token_loss`.

    Returns:
        The token with the least loss on the way.

    Raises:
        InputError: masks that don't fit the pictures or the words, or that are all empty.
    """
    asked = listed(words)
    if masks.ndim != 4 or masks.shape[0] != look.rows or masks.shape[1] != len(asked):
        raise InputError(
            f"the masks are {list(masks.shape)} for {look.rows} pictures and {len(asked)} words; give [pictures, words, height, width]"
        )
    if not bool(masks.any()):
        raise InputError("the masks are empty; mark the word's pixels in at least one picture")
    question = ask(look.model, asked, context, (int(look.pictures.shape[-2]), int(look.pictures.shape[-1])))
    first = torch.stack([question.embeddings[0, 0], *(question.embeddings[0, list(rows)].mean(dim=0) for rows in question.rows)])
    rows = tuple((row,) for row in range(1, len(asked) + 1))
    others = [competing_rows(look.model, phrases, asked) for phrases in competing_phrases]
    target = torch.cat([~masks.any(dim=1, keepdim=True), masks], dim=1).float()
    target = target / target.sum(dim=1, keepdim=True)
    vectors = first.clone().requires_grad_(True)
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam([vectors], lr=learning_rate) if loss == "shares" else torch.optim.SGD([vectors], lr=learning_rate)
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay_steps, decay)
    best, least = first.clone(), math.inf
    events.stage("fit-token", num_steps)
    with torch.enable_grad():
        for _ in range(num_steps):
            used = vectors if fit_rest else torch.cat([first[:1], vectors[1:]])
            shares = look.shares(TokenQuery(asked, used[None], rows).against(others))
            # Whatever isn't one of the words is the rest: the start token and the competing phrases together.
            words_shares = shares[:, 1 : len(asked) + 1]
            rest = shares[:, :1] + shares[:, len(asked) + 1 :].sum(dim=1, keepdim=True)
            found = resize(torch.cat([rest, words_shares], dim=1), (int(masks.shape[-2]), int(masks.shape[-1]))).to(target.device)
            value = distance(found, target, loss)
            if value.item() < least:
                best, least = used.detach().clone(), value.item()
            optimizer.zero_grad()
            (gradient,) = torch.autograd.grad(value, [vectors])
            vectors.grad = gradient
            optimizer.step()
            schedule.step()
            events.step()
            events.check()
    events.metric("token_loss", least)
    told = {
        "model": str(look.model.name),
        "context": context,
        "rivals": json.dumps([list(phrases) for phrases in competing_phrases][:8]),
        "branch": branch,
        "loss": loss,
        "num_steps": str(num_steps),
        "learning_rate": str(learning_rate),
        "token_loss": f"{least:.6f}",
        "pictures": str(look.rows),
    }
    return Token(asked, best.cpu(), told)


def distance(shares: Float[Tensor, "batch rows height width"], target: Float[Tensor, "batch rows height width"], loss: Loss) -> Tensor:
    """The loss that `fit_token` lowers.

    Example:
        >>> perfect = torch.eye(2)[None, :, None]
        >>> bool((distance(perfect, perfect, "minmax") - PERFECT_MINMAX).abs() < 1e-6)
        True
    """
    if loss == "shares":
        return -(target * shares.clamp(min=1e-6).log()).sum(dim=1).mean()
    span = (shares.amax() - shares.amin()).clamp(min=1e-12)
    return -(target * ((shares - shares.amin()) / span).log_softmax(dim=1)).sum(dim=1).mean()
