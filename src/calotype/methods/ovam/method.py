"""Open-vocabulary attention maps (OVAM): where any word is in a picture, from one look of a text-to-image model.

P. Marcos-Manchon, R. Alcover-Couso, J. C. SanMiguel, J. M. Martinez: "Open-Vocabulary Attention Maps with Token Optimization for Semantic
Segmentation in Diffusion Models", CVPR 2024, arXiv 2403.14291. The in-prompt mode is DAAM: R. Tang et al., ACL 2023, arXiv 2210.04885.

The idea: what a pixel of the UNet looks for (its query) doesn't depend on the words that it is then compared with. Keep the queries, and
ask afterwards for any word, or for any vector in a word's place, without running the UNet again. Such a map can be differentiated by the
vector, so a token can be fitted to one annotated picture (`calotype.methods.ovam.tokens`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.backbones.preprocessing import note_unfamiliar
from calotype.core import fields
from calotype.core.events import SILENT, Events, Stateless
from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance
from calotype.core.inversion import invert
from calotype.core.method import Evaluations, Method, Place
from calotype.core.noise import batch_noise
from calotype.core.roles import HasAttention, HasText
from calotype.core.samplers import sample
from calotype.data import as_image, resize_pixels
from calotype.data.images import ImageLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from calotype.methods.ovam.arguments import as_token, check_arguments, check_fit
from calotype.methods.ovam.masks import Refinement, Scaling, cut, received, scaled
from calotype.methods.ovam.queries import AttentionQueries, Watch, look_at_noise, looked_at_size, question
from calotype.methods.ovam.results import shown
from calotype.methods.ovam.tokens import Token, fit_token
from calotype.methods.ovam.words import TokenQuery, WatchedModel, listed, whole_prompts

TOY_PHRASES = "a ball, a star, a tree, a house, a mushroom, a rocket, nothing on sand, nothing on snow, nothing at night, nothing on grass"
"""What else may be in a picture of the toy world; a word that is asked for is left out of it."""
FIT: dict[str, Any] = {"num_steps": 100, "learning_rate": 0.1}
NEEDS = "the cross-attention of a text-to-image UNet; take toy-t2i, SD 1.5, SD 2.1 or SDXL"
CAPABILITIES = (HasText, HasAttention)
Maps = Float[Tensor, "batch words height width"]


@dataclass(frozen=True, kw_only=True)
class OpenVocabularyAttentionMaps(Method):
    """Open-vocabulary attention maps (Marcos-Manchon et al. 2024): maps and masks of any words, from a prompt or from a picture.

    A word's map is the share of the network's cross-attention that the word gets when only it, the start and the end token compete. The
    words need not be in the prompt. Nothing is trained.

    Example:
        >>> method = OpenVocabularyAttentionMaps.paper()
        >>> method.num_inference_steps, method.branch, method.threshold
        (30, 'uncond', 0.4)
    """

    slug: ClassVar[str] = "ovam"
    role: ClassVar[str] = "TextToImage"
    presets: ClassVar[tuple[str, ...]] = ("paper", "fast", "toy")
    renamed: ClassVar[Mapping[str, str]] = {"rivals": "competing_phrases"}

    mode: Literal["open", "in-prompt"] = "open"
    """`open`: any word (OVAM). `in-prompt`: words of the prompt, in the competition of all its padded tokens (DAAM)."""
    num_inference_steps: int = 30
    """Denoising steps where a picture is generated, and levels of an inversion (official experiments: 30)."""
    guidance_scale: float = 7.5
    """Classifier-free guidance where a picture is generated; at most 1 is none."""
    height: int | None = None
    """Height in pixels of a generated picture; the model's own by default."""
    width: int | None = None
    """Width in pixels of a generated picture; the model's own by default."""
    branch: Literal["uncond", "cond"] = "uncond"
    """Whose queries: of the empty prompt (the official code's row 0) or of the prompt. Without guidance there is only one."""
    factors: tuple[int, ...] = (1, 2, 4)
    """Layers to watch, by latent pixels per token and axis: at 512 px SD 1.5 has 64x64, 32x32 and 16x16 as 1, 2 and 4."""
    every: int = 1
    """Watch each so many steps; 2 halves the memory."""
    store: Literal["queries", "maps"] = "queries"
    """`queries` can be asked for words later; `maps` keeps only the named words' sums, a few megabytes whatever the steps."""
    source: Literal["noise", "invert"] = "noise"
    """How a real picture is looked at: with noise added at some levels, or along its inversion."""
    levels: int = 10
    """Noise levels at which a real picture is looked at."""
    sigma_min: float = 0.2
    """Least noise level for a real picture, in standard deviations of its latents."""
    sigma_max: float = 5.0
    """Largest noise level for a real picture."""
    context: str = "{}"
    """Text that a word is read in, with {} in its place, such as 'a photograph of a {}'; its own words don't compete."""
    prompt_competes: bool = False
    """The words of the picture's own prompt compete with each word that is asked for; its own tokens are left out."""
    competing_phrases: str = ""
    """Phrases that compete instead where a picture has no prompt, separated by commas."""
    together: bool = False
    """All words compete in one softmax, and each pixel goes to the strongest or to none; otherwise each word is asked alone."""
    scaling: Scaling = "max"
    """What the threshold is a share of: the map's largest value (the official code), or its span from least to largest."""
    threshold: float = 0.4
    """A pixel belongs to the word where its scaled map is above this (official: 0.4, for fitted tokens 0.75)."""
    self_attention: float = 0.85
    """Least factor of the refinement by self-attention; 1 is off (official: 0.85 to 0.99)."""
    self_attention_factors: tuple[int, ...] = (2, 4)
    """Layers whose self-attention is watched for it; 1 would need the scores of all pairs of latent pixels."""
    refine: Refinement = "crf"
    """What brings the mask's edges to the picture's: a guided filter, a dense random field (official), or nothing."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps", "every", "levels")
        fields.sides(self)
        if not self.factors or any(factor < 1 for factor in self.factors):
            raise InputError(f"factors are {self.factors}; name one or more of 1, 2, 4, 8")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise InputError(f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}; 0 < sigma_min <= sigma_max must hold")
        if not 0 <= self.threshold < 1:
            raise InputError(f"threshold is {self.threshold}; it must be at least 0 and below 1")
        if not 0 < self.self_attention <= 1:
            raise InputError(f"self_attention is {self.self_attention}; it must be above 0 and at most 1 (off)")
        if self.mode == "in-prompt" and self.together:
            raise InputError("in-prompt maps always compete with all tokens of the prompt; leave out together")

    @classmethod
    def paper(cls) -> Self:
        """The official experiments on SD 1.5: 30 steps, all layers but the middle, threshold 0.4, self-attention 0.85, random field."""
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """Only the 16x16 layers of SD 1.5 at 512 px, which carry the result (the authors' ablation), and a guided filter."""
        return cls(factors=(4,), prompt_competes=True, self_attention=1.0, refine="guided")

    @classmethod
    def toy(cls) -> Self:
        """For toy-t2i, chosen on the tune split: small noise, a threshold from the least to the largest value, a guided filter."""
        return cls(
            num_inference_steps=25,
            guidance_scale=3.0,
            levels=4,
            sigma_min=0.15,
            sigma_max=0.7,
            context="a {}",
            prompt_competes=True,
            competing_phrases=TOY_PHRASES,
            scaling="minmax",
            threshold=0.5,
            self_attention=1.0,
            refine="guided",
        )

    def evaluations(self) -> Evaluations:
        """Of a picture that is generated, the dearer case."""
        rows = 2 if self.guidance_scale > 1 else 1
        return Evaluations(rows * self.num_inference_steps, rows)

    def __call__(
        self,
        model: WatchedModel,
        image: ImageLike | None = None,
        *,
        words: str = "",
        prompt: str = "",
        token: Token | str | os.PathLike[str] | None = None,
        mask: Mask | None = None,
        save_token: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> dict[str, Image | Mask | Token]:
        """Maps and masks of words, in a picture or in one made from a prompt.

        Args:
            model: a text-to-image model of the Stable Diffusion family, as `calotype.load` returns it.
            image: the picture; without it one is made from the prompt.
            words: what to look for, separated by commas; each may be a phrase, and none has to be in the prompt.
            prompt: what to make; for a given picture what the network is told about it, if anything.
            token: a fitted token, or its file, that is asked for in the words' place.
            mask: of the one word in the picture; a token is fitted to it and then asked for.
            save_token: file to write the fitted token to (.safetensors).
            seed: of all noise.
            events: hears steps and notes, and the metrics `model_calls` and, per word, its largest share.

        Returns:
            The `picture`, and for each word its map laid over it (`WORD-map`) and its mask (`WORD-mask`), all of one size; with `mask`
            the fitted `token`. The names are those of `calotype.imaging.files.file_stems`.

        Raises:
            InputError: `model` has another role, a word has no token, or the picture, the mask or the token file can't be used.
        """
        self.refuse_other_roles(model, needs=NEEDS, capabilities=CAPABILITIES)
        known = as_token(token)
        asked = known.words if known is not None else listed(words)
        if known is not None:
            known.question(model)
        else:
            self.questions(model, asked, (prompt,))  # What can't be asked is said before anything is sampled.
        picture = None if image is None else as_image(image, name="image", events=events)
        check_fit(asked, picture, prompt, mask, known, save_token, asks_later=self._asks_later)
        if picture is None:
            look = self.generate(model, [prompt], words=asked, seed=seed, events=events)
        else:
            note_unfamiliar(model, picture, events, name="image", expect="poor maps")
            look = self.look(model, [picture], prompts=[prompt], words=asked, seed=seed, events=events)
        if mask is not None:
            known = fit_token(look, asked, mask.values[None, None], context=self.context, branch=self.branch, **FIT, events=events)
            if save_token:
                known.save(save_token)
        maps = self.maps(look, asked, known)
        masks = self.masks(look, maps)
        found = shown(look.pictures[0].float(), asked, maps[0], masks[0], self.threshold, events)
        return {**found, "token": known} if mask is not None and known is not None else {**found}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what can't be used, as far as that shows without the model: see `arguments.check_arguments`."""
        check_arguments(arguments, self._asks_later)

    @property
    def _asks_later(self) -> bool:
        """Whether anything can still be asked after the look."""
        return self.mode == "open" and self.store == "queries"

    def places(self, arguments: Mapping[str, Any]) -> tuple[Place, ...]:
        """The file that a token is written to."""
        named = str(arguments.get("save_token") or "")
        return (*super().places(arguments), *((Place("save_token", "writes", named),) if named else ()))

    def questions(
        self, model: WatchedModel, words: Sequence[str], prompts: Sequence[str], size: tuple[int, int] | None = None
    ) -> tuple[TokenQuery, ...]:
        """The questions that can be asked before anything is sampled: the words themselves, or in in-prompt mode the whole prompts.

        `InputError` where a word has no token, or in in-prompt mode isn't in a prompt.
        """
        if self.mode == "in-prompt":
            return (whole_prompts(model, prompts, size, words),)
        groups = [tuple(words)] if self.together else [(word,) for word in words]
        return tuple(question(model, group, self.context, self.competitors(prompts), size) for group in groups)

    def competitors(self, prompts: Sequence[str]) -> list[list[str]]:
        """The phrases that compete in each picture."""
        always = [phrase for part in self.competing_phrases.split(",") if (phrase := " ".join(part.split()))]
        return [[prompt] if prompt.strip() and self.prompt_competes else always for prompt in prompts]

    def generate(
        self, model: WatchedModel, prompts: Sequence[str], *, words: Sequence[str] = (), seed: int = 0, events: Events = SILENT
    ) -> AttentionQueries:
        """Make pictures and watch; picture i comes out as it would alone with `seed + i`, and as it would unwatched.

        Args:
            model: see `__call__`.
            prompts: one per picture.
            words: what will be asked; needed only with `store="maps"`.
            seed: of the first picture's noise.
            events: hears the metric `model_calls`.
        """
        size = (self.height or model.size[0], self.width or model.size[1])
        shape, sigmas = model.latent_shape(size), model.sigmas(self.num_inference_steps)
        condition = model.condition(list(prompts), size=size)
        guidance = ClassifierFreeGuidance(self.guidance_scale)
        conditions = {"cond": condition, **({"uncond": model.unconditional(condition)} if "uncond" in guidance.labels else {})}
        role = self.branch if self.branch in guidance.labels else guidance.labels[0]
        if role != self.branch:
            events.note(f"without guidance there is no {self.branch} branch; the queries are those of {role}")
        start = batch_noise(shape, seed, len(prompts)) * model.init_noise_sigma(sigmas)
        watch = self._watch(model, role, words, prompts, size)
        with watch.during(conditions, guidance, shape[1:]) as denoise:
            x = sample(denoise, start, sigmas, events=Stateless(events), key=self.slug)
        events.metric("model_calls", float(denoise.calls))
        return watch.look(model.decode(x), prompts, shape[1:])

    def look(
        self,
        model: WatchedModel,
        images: Sequence[Image],
        *,
        prompts: Sequence[str] = (),
        words: Sequence[str] = (),
        seed: int = 0,
        events: Events = SILENT,
    ) -> AttentionQueries:
        """Watch the network look at given pictures of one size; picture i is looked at as it would be alone with `seed + i`.

        Args:
            model: see `__call__`.
            images: of one size; they are resized to about the model's number of pixels, sides rounded to what it takes.
            prompts: what the network is told, one per picture or none; it matters to `branch="cond"`.
            words: what will be asked; needed only with `store="maps"`.
            seed: of the noise that is added.
            events: hears the metric `model_calls`.

        Returns:
            The look; its maps have the pictures' own size.
        """
        size = looked_at_size(model, images[0], events)
        pictures = torch.stack([image.pixels for image in images])
        latents = model.encode(resize_pixels(pictures, size)).float()
        told = list(prompts) or [""] * len(images)
        condition = model.condition(told, size=size)
        label: str = self.branch
        conditions = {label: model.unconditional(condition) if label == "uncond" else condition}
        watch = self._watch(model, label, words, told, size)
        grid = (int(latents.shape[-2]), int(latents.shape[-1]))
        with torch.no_grad(), watch.during(conditions, NoGuidance(label), grid) as denoise:
            if self.source == "invert":
                sigmas = model.sigmas(self.num_inference_steps)
                invert(denoise, latents, sigmas, keep=sigmas[:1], events=Stateless(events), key=self.slug)
            else:
                look_at_noise(denoise, latents, self.noise_levels(), seed=seed, events=events, key=self.slug)
        events.metric("model_calls", float(denoise.calls))
        return watch.look(pictures, told, grid)

    def noise_levels(self) -> list[float]:
        """The noise levels at which a real picture is looked at, falling, evenly spaced in their logarithm."""
        low, high = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64).log().tolist()
        return [float(value) for value in torch.linspace(high, low, self.levels, dtype=torch.float64).exp()]

    def _watch(self, model: WatchedModel, role: str, words: Sequence[str], prompts: Sequence[str], size: tuple[int, int]) -> Watch:
        if self.store == "maps" and not words:
            raise InputError("store='maps' keeps the sums of named words only; name them, or take store='queries'")
        questions = self.questions(model, words, prompts, size) if self.store == "maps" else ()
        coarse = self.self_attention_factors if self.self_attention < 1 else ()
        return Watch(model=model, factors=self.factors, role=role, every=self.every, questions=questions, self_factors=coarse)

    def maps(self, look: AttentionQueries, words: Sequence[str], token: Token | None = None) -> Maps:
        """The words' shares in the pictures' size, before any refinement; a fitted token's, if one is given."""
        if token is not None:
            return look.answer(token.question(look.model))
        if self.mode == "in-prompt":
            return look.prompt_maps(words)
        return look.maps(words, context=self.context, competing_phrases=self.competitors(look.prompts), together=self.together)

    def masks(self, look: AttentionQueries, maps: Maps) -> Bool[Tensor, "batch words height width"]:
        """Masks from a look's maps, in the pictures' size: refined by self-attention if that was watched, then `cut`."""
        refined = None
        if look.received is not None and self.self_attention < 1:
            size = (int(maps.shape[-2]), int(maps.shape[-1]))
            refined = scaled(maps, self.scaling) * received(look.received, self.self_attention, size)[:, None]
        return self.cut(maps, look.pictures.float(), refined)

    def cut(
        self, maps: Maps, pictures: Float[Tensor, "batch 3 height width"], refined: Maps | None = None
    ) -> Bool[Tensor, "batch words height width"]:
        """Maps scaled, brought to the pictures' edges, and cut at the threshold: see `masks.cut`."""
        return cut(maps, pictures, refined, threshold=self.threshold, scaling=self.scaling, refine=self.refine, compete=self.together)


METHOD = OpenVocabularyAttentionMaps
