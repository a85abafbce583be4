"""Watching the network look: queries of its cross-attention, from a generation or from a picture, and what can be asked of them later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl, Capture, KeySums, Site, StepContext, sites
from calotype.backbones.preprocessing import working_size
from calotype.core.denoiser import Condition, Denoiser, at_step
from calotype.core.events import Events
from calotype.core.guidance import Guidance
from calotype.core.noise import RENOISE, batch_noise
from calotype.core.offload import awake
from calotype.core.roles import BranchedDenoiser, HasAttention
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.methods.ovam.maps import Attended, AttentionLayer, attend, in_prompt, key_rows, open_vocabulary, resize
from calotype.methods.ovam.words import TokenQuery, WatchedModel, ask, competing_rows, places_in_prompt, whole_prompts


@dataclass(frozen=True, eq=False)
class AttentionQueries:
    """What a network looked for at every pixel of some pictures. Any word can be asked for afterwards; the UNet isn't run again."""

    model: WatchedModel
    """The text-to-image model that looked; its key projections and text encoders are needed for words."""
    pictures: Float[Tensor, "batch 3 height width"]
    """In [0, 1]."""
    prompts: tuple[str, ...]
    """What the network was told, one per picture."""
    latent_size: tuple[int, int]
    layers: tuple[AttentionLayer, ...] = ()
    """Empty if only the answers to known questions were kept."""
    answers: tuple[tuple[TokenQuery, tuple[Attended, ...]], ...] = ()
    received: Float[Tensor, "batch height width"] | None = None
    """How much all pixels together look at each (column sums of self-attention), if that was watched."""

    @property
    def total(self) -> int:
        """What all tokens' attention sums to at every pixel: noise levels x heads x layers."""
        if self.layers:
            return sum(layer.queries.shape[0] * layer.heads for layer in self.layers)
        return sum(part.levels * part.sums.shape[1] for part in self.answers[0][1])

    @property
    def megabytes(self) -> float:
        """Memory that the capture holds."""
        answered = sum(part.megabytes for _, found in self.answers for part in found)
        return sum(layer.megabytes for layer in self.layers) + answered

    @property
    def rows(self) -> int:
        """Number of pictures."""
        return self.pictures.shape[0]

    def select(self, rows: Sequence[int]) -> AttentionQueries:
        """Only these pictures; needs the queries."""
        chosen = list(rows)
        return AttentionQueries(
            self.model,
            self.pictures[chosen],
            tuple(self.prompts[row] for row in chosen),
            self.latent_size,
            tuple(AttentionLayer(layer.name, layer.grid, layer.queries[:, chosen]) for layer in self.layers),
            received=None if self.received is None else self.received[chosen],
        )

    def attended(self, question: TokenQuery) -> tuple[Attended, ...]:
        """Each layer's attention to the question's tokens.

        Raises:
            InputError: the queries weren't kept and this question wasn't among those answered meanwhile.
        """
        for known, found in self.answers:
            if known is question:
                return found
        if not self.layers:
            raise InputError("the queries were not kept, only the maps of the words named before; look again with store='queries'")
        if question.embeddings.shape[0] not in (1, self.rows):
            raise InputError(f"the question is about {question.embeddings.shape[0]} pictures, the queries are of {self.rows}")
        with awake(self.model.unet):
            keys = word_keys(self.model, self.layers, question)
        return tuple(attend(layer, key, question.allowed) for layer, key in zip(self.layers, keys, strict=True))

    def shares(self, question: TokenQuery) -> Float[Tensor, "batch tokens height width"]:
        """Every token's share of the attention, on the finest grid; they sum to 1 at every pixel."""
        return open_vocabulary(self.attended(question))

    def answer(self, question: TokenQuery) -> Float[Tensor, "batch words height width"]:
        """The shares of a question's words, in the pictures' size."""
        with torch.no_grad():
            return resize(question.gather(self.shares(question)), (int(self.pictures.shape[-2]), int(self.pictures.shape[-1])))

    def maps(
        self,
        words: Sequence[str],
        *,
        context: str = "{}",
        competing_phrases: Sequence[Sequence[str]] = (),
        together: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch words height width"]:
        """The shares of words, whatever the prompt said.

        Args:
            words: any words or phrases.
            context: see `ask`.
            competing_phrases: whose tokens compete, too: one set for all pictures, or one for each. `[[prompt] for prompt in look.prompts]`
                makes each picture's own prompt compete.
            together: let all words compete in one softmax; otherwise each only against start, end and competing phrases, so that its map
                doesn't depend on what else is asked.
            size: height and width of the maps; the pictures' by default.
        """
        shape = tuple(self.pictures.shape[-2:]) if size is None else size
        groups = [tuple(words)] if together else [(word,) for word in words]
        found = []
        with torch.no_grad():
            for group in groups:
                question = self.question(group, context, competing_phrases)
                found.append(question.gather(self.shares(question)))
        return resize(torch.cat(found, dim=1), (int(shape[0]), int(shape[1])))

    def question(self, words: tuple[str, ...], context: str = "{}", competing_phrases: Sequence[Sequence[str]] = ()) -> TokenQuery:
        """The question about words that compete, or the one that was answered meanwhile."""
        for known, _ in self.answers:
            if known.words == words:
                return known
        return question(self.model, words, context, competing_phrases, (int(self.pictures.shape[-2]), int(self.pictures.shape[-1])))

    def prompt_maps(self, words: Sequence[str], *, size: tuple[int, int] | None = None) -> Float[Tensor, "batch words height width"]:
        """DAAM's maps of words that are in each picture's own prompt; all the padded prompt's tokens compete.

        Raises:
            InputError: a word isn't in a prompt.
        """
        question = next((known for known, _ in self.answers if known.words == ()), None) or prompt_question(self)
        with torch.no_grad():
            shares = in_prompt(self.attended(question), self.latent_size)
            rows = [
                torch.stack([shares[row, list(places_in_prompt(self.model, prompt, word))].mean(dim=0) for word in words])
                for row, prompt in enumerate(self.prompts)
            ]
        return resize(torch.stack(rows), size or (int(self.pictures.shape[-2]), int(self.pictures.shape[-1])))


def question(
    model: WatchedModel, words: Sequence[str], context: str, competing_phrases: Sequence[Sequence[str]], size: tuple[int, int] | None = None
) -> TokenQuery:
    """`ask`, against competing phrases; see `AttentionQueries.maps`."""
    several = [competing_rows(model, phrases, words, size) for phrases in competing_phrases]
    return ask(model, words, context, size).against(several)


def prompt_question(look: AttentionQueries) -> TokenQuery:
    """The whole padded prompts as a question without words of its own."""
    height, width = look.pictures.shape[-2:]
    return whole_prompts(look.model, look.prompts, (int(height), int(width)))


def word_keys(
    model: HasAttention, layers: Sequence[AttentionLayer], question: TokenQuery
) -> list[Float[Tensor, "batch heads tokens width"]]:
    """The keys that the network's layers make of the question's tokens; its weights must be where it computes."""
    modules: dict[str, Any] = {layer.name: model.unet.get_submodule(layer.name) for layer in layers}
    projections = {name: module.to_k for name, module in modules.items()}
    return key_rows(projections, layers, question.embeddings.to(model.device))


@dataclass(kw_only=True)
class Watch:
    """What is captured while a network runs: queries of chosen cross-attention layers, or at once the answers to known questions."""

    model: WatchedModel
    factors: tuple[int, ...]
    """Latent pixels per token and axis of the layers to watch."""
    role: str
    """Batch rows to watch."""
    every: int = 1
    """Watch each so many steps."""
    questions: tuple[TokenQuery, ...] = ()
    """If given, the queries aren't kept: the answers are summed up meanwhile."""
    self_factors: tuple[int, ...] = ()
    """The same for self-attention, whose column sums are kept; empty: none."""
    dtype: torch.dtype = torch.float16
    device: str = "cpu"
    captures: list[Capture] = field(default_factory=list)
    sums: list[QuestionSums] = field(default_factory=list)
    columns: KeySums | None = None

    @contextmanager
    def during(self, conditions: Mapping[str, Condition], guidance: Guidance, latent_size: tuple[int, int]) -> Iterator[BranchedDenoiser]:
        """A denoiser whose calls are watched."""
        with AttentionControl(self.model, latent_size=latent_size) as control:
            denoise = self.model.denoiser(conditions, guidance, control=control)
            self.on(control)
            yield denoise

    def on(self, control: AttentionControl) -> None:
        """Add the captures to a control."""
        select = sites(kind="cross", place=("down", "up"), stride=self.factors)
        if self.questions:
            self.sums = [QuestionSums(self.model, question) for question in self.questions]
            rules = [Capture(what="q", select=select, rows=self.role, steps=self.due, reduce=sums) for sums in self.sums]
        else:
            rules = [Capture(what="q", select=select, rows=self.role, steps=self.due, dtype=self.dtype, device=self.device)]
        self.captures = [control.add(rule) for rule in rules]
        if self.self_factors:
            self.columns = KeySums()
            coarse = sites(kind="self", place=("down", "up"), stride=self.self_factors)
            control.add(Capture(what="probs", select=coarse, rows=self.role, steps=self.due, reduce=self.columns))

    def due(self, context: StepContext) -> bool:
        """Whether this step is watched."""
        return context.index % self.every == 0

    def look(
        self, pictures: Float[Tensor, "batch 3 height width"], prompts: Sequence[str], latent_size: tuple[int, int]
    ) -> AttentionQueries:
        """What was seen, with the pictures that it belongs to."""
        layers: list[AttentionLayer] = []
        answers: list[tuple[TokenQuery, tuple[Attended, ...]]] = []
        if self.questions:
            answers = [(sums.question, sums.attended()) for sums in self.sums]
        else:
            capture = self.captures[0]
            for name, site in capture.sites.items():
                steps = sorted(step for found, step in capture.tensors if found == name)
                if site.grid is None or not steps:
                    raise InputError(f"the layer {name} has no grid of pixels; choose other factors")
                # Taken out one by one, so that the stack doesn't hold everything twice.
                layers.append(AttentionLayer(name, site.grid, torch.stack([capture.tensors.pop((name, step)) for step in steps])))
        return AttentionQueries(self.model, pictures.cpu(), tuple(prompts), latent_size, tuple(layers), tuple(answers), self._received())

    def _received(self) -> Tensor | None:
        if self.columns is None:
            return None
        grids = [total.view(total.shape[0], *(self.columns.sites[name].grid or (1, -1))) for name, total in self.columns.sums().items()]
        finest = max(((int(grid.shape[-2]), int(grid.shape[-1])) for grid in grids), key=lambda grid: grid[0] * grid[1])
        # Column sums of a coarse grid spread over fewer pixels; as multiples of the even share all grids have mean 1.
        even = [grid / grid.mean(dim=(-2, -1), keepdim=True) for grid in grids]
        return torch.stack([resize(grid[:, None], finest)[:, 0] for grid in even]).mean(dim=0).cpu()


def looked_at_size(model: WatchedModel, image: Image, events: Events) -> tuple[int, int]:
    """Height and width at which a picture of any size is looked at: about the model's number of pixels."""
    size = working_size(model, image.size)
    if size != image.size:
        (height, width), (h, w) = image.size, size
        events.note(f"image: {width}x{height} px, looked at in {w}x{h}; maps and masks are of {width}x{height} px")
    return size


def look_at_noise(
    denoise: Denoiser, latents: Float[Tensor, "batch channels h w"], levels: Sequence[float], *, seed: int, events: Events, key: str
) -> None:
    """One call of the network at each noise level, with fresh noise; what it answers doesn't matter."""
    events.stage(key, len(levels))
    for place, sigma in enumerate(levels):
        fresh = batch_noise(latents.shape[1:], seed, latents.shape[0], stream=RENOISE + place).to(latents)
        at_step(denoise, StepContext(place, len(levels), sigma))(latents + sigma * fresh, sigma)
        events.step()
        events.check()


class QuestionSums:
    """Answers a question while the network runs: softmax of its tokens' scores, summed over steps (`Capture(what="q", reduce=...)`)."""

    def __init__(self, model: WatchedModel, question: TokenQuery) -> None:
        self.model, self.question = model, question
        self._keys: dict[str, Tensor] = {}
        self._sums: dict[str, dict[int, Tensor]] = {}
        self._steps: dict[str, set[int]] = {}
        self._sites: dict[str, Site] = {}

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take the queries [1, heads, pixels, width] of one row."""
        if site.grid is None:
            raise InputError(f"the layer {site.name} has no grid of pixels; choose other factors")
        layer = AttentionLayer(site.name, site.grid, values[None])
        if site.name not in self._keys:
            with torch.no_grad():
                self._keys[site.name] = word_keys(self.model, [layer], self.question)[0]
        keys = self._keys[site.name]
        allowed = self.question.allowed
        own = slice(row, row + 1) if keys.shape[0] > 1 else slice(None)
        found = attend(layer, keys[own], None if allowed is None else allowed[own]).sums
        sums = self._sums.setdefault(site.name, {})
        sums[row] = sums[row] + found if row in sums else found
        self._steps.setdefault(site.name, set()).add(context.index)
        self._sites[site.name] = site

    def attended(self) -> tuple[Attended, ...]:
        """The sums of all layers."""
        return tuple(
            Attended(torch.cat([rows[row] for row in sorted(rows)]).cpu(), len(self._steps[name])) for name, rows in self._sums.items()
        )
