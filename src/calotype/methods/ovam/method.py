"""Open-vocabulary attention maps (OVAM): where any word is in a picture, from one look of a text-to-image model.

P. Marcos-Manchon, R. Alcover-Couso, J. C. SanMiguel, J. M. Martinez: "Open-Vocabulary Attention Maps with Token Optimization for Semantic
Segmentation in Diffusion Models", CVPR 2024, arXiv 2403.14291. The in-prompt mode is DAAM: R. Tang et al., ACL 2023, arXiv 2210.04885.

The idea: what a pixel of the UNet looks for (its query) doesn't depend on the words that it is then compared with. Keep the queries, and
ask afterwards for any word, or for any vector in a word's place, without running the UNet again. Such a map can be differentiated by the
vector, so a token can be fitted to one annotated picture (`calotype.methods.ovam.tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.attention import AttentionControl, controlled
from calotype.core.denoiser import Condition, Denoiser
from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance, Guidance, NoGuidance
from calotype.core.inversion import invert
from calotype.core.method import Method
from calotype.core.noise import RENOISE, batch_noise
from calotype.core.roles import TextToImage
from calotype.core.samplers import sample
from calotype.core.types import Image, Mask
from calotype.data import as_image
from calotype.data.images import ImageLike
from calotype.index import MODELS
from calotype.methods.ovam.look import Look, Watch, question
from calotype.methods.ovam.masks import Refinement, Scaling, received, scaled, to_mask
from calotype.methods.ovam.words import Question, ask, listed, places_in_prompt, whole_prompts
from calotype.metrics import psnr

TOY_RIVALS = "a ball, a star, a tree, a house, a mushroom, a rocket, nothing on sand, nothing on snow, nothing at night, nothing on grass"
"""What else may be in a picture of the toy world; a word that is asked for is left out of it."""
FAMILIAR_PSNR_DB = 27.0
"""The toy autoencoder rebuilds pictures of its own world at least this well."""


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
    rivals: str = ""
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
        for name in ("num_inference_steps", "every", "levels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("height", "width"):
            side = getattr(self, name)
            if side is not None and side < 16:
                raise InputError(f"{name} is {side}; it must be 16 pixels or more")
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
            rivals=TOY_RIVALS,
            scaling="minmax",
            threshold=0.5,
            self_attention=1.0,
            refine="guided",
        )

    def __call__(
        self,
        model: TextToImage,
        image: ImageLike | None = None,
        *,
        words: str,
        prompt: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> dict[str, Image | Mask]:
        """Maps and masks of words, in a picture or in one made from a prompt.

        Args:
            model: a text-to-image model of the Stable Diffusion family, as `calotype.load` returns it.
            image: the picture; without it one is made from the prompt.
            words: what to look for, separated by commas; each may be a phrase, and none has to be in the prompt.
            prompt: what to make; for a given picture what the network is told about it, if anything.
            seed: of all noise.
            events: hears steps and notes, and the metrics `model_calls` and, per word, its largest share.

        Returns:
            The `picture`, and for each word its map laid over it (`WORD-map`) and its mask (`WORD-mask`), all of one size.

        Raises:
            InputError: `model` has another role, a word has no token, or the picture can't be used.
        """
        refuse_other_roles(model)
        asked = listed(words)
        self.questions(model, asked, (prompt,))  # What can't be asked is said before anything is sampled.
        if image is None:
            if not prompt:
                raise InputError("neither a picture nor a prompt was given; give --image FILE, or --prompt TEXT to make one")
            look = self.generate(model, [prompt], words=asked, seed=seed, events=events)
        else:
            picture = as_image(image, name="image", events=events)
            note_unfamiliar(model, [picture], events)
            look = self.look(model, [picture], prompts=[prompt], words=asked, seed=seed, events=events)
        return self.results(look, asked, events)

    def questions(self, model: TextToImage, words: Sequence[str], prompts: Sequence[str], size: tuple[int, int] | None = None) -> Questions:
        """The questions that can be asked before anything is sampled: the words themselves, or in in-prompt mode the whole prompts.

        Raises:
            InputError: a word has no token, or in in-prompt mode isn't in a prompt.
        """
        if self.mode == "in-prompt":
            for prompt in prompts:
                for word in words:
                    places_in_prompt(model, prompt, word)
            return (whole_prompts(model, prompts, size),)
        groups = [tuple(words)] if self.together else [(word,) for word in words]
        return tuple(question(model, group, self.context, self.competitors(prompts), size) for group in groups)

    def competitors(self, prompts: Sequence[str]) -> list[list[str]]:
        """The phrases that compete in each picture."""
        always = [phrase for part in self.rivals.split(",") if (phrase := " ".join(part.split()))]
        return [[prompt] if prompt.strip() and self.prompt_competes else always for prompt in prompts]

    def generate(
        self,
        model: TextToImage,
        prompts: Sequence[str],
        *,
        words: Sequence[str] = (),
        seed: int = 0,
        events: Events = SILENT,
    ) -> Look:
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
        conditions = {"cond": condition}
        if "uncond" in guidance.labels:
            conditions["uncond"] = unconditional(model, condition)
        role = self._role(guidance, events)
        start = batch_noise(shape, seed, len(prompts)) * start_scale(model, sigmas)
        denoise = whole_batch(model, events).denoiser(conditions, guidance)
        watch = self._watch(model, role, words, prompts, size)
        with AttentionControl(model, roles=guidance.labels, latent_size=shape[1:]) as control:
            watch.on(control)
            x = sample(controlled(denoise, control, sigmas), start, sigmas, events=Unsaved(events), key=self.slug)
        events.metric("model_calls", float(denoise.calls))
        return watch.look(model.decode(x), prompts, shape[1:])

    def look(
        self,
        model: TextToImage,
        images: Sequence[Image],
        *,
        prompts: Sequence[str] = (),
        words: Sequence[str] = (),
        seed: int = 0,
        events: Events = SILENT,
    ) -> Look:
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
        size = working_size(model, images[0].size)
        if size != images[0].size:
            (height, width), (h, w) = images[0].size, size
            events.note(f"image: {width}x{height} px, looked at in {w}x{h}; maps and masks are of {width}x{height} px")
        pictures = torch.stack([image.pixels for image in images])
        latents = model.encode(fitted(pictures, size).to(model_device(model))).float()
        told = list(prompts) or [""] * len(images)
        condition = model.condition(told, size=size)
        label = self.branch
        conditions = {label: unconditional(model, condition) if label == "uncond" else condition}
        denoise = whole_batch(model, events).denoiser(conditions, NoGuidance(label))
        watch = self._watch(model, label, words, told, size)
        grid = (int(latents.shape[-2]), int(latents.shape[-1]))
        with torch.no_grad(), AttentionControl(model, roles=(label,), latent_size=grid) as control:
            watch.on(control)
            if self.source == "invert":
                sigmas = model.sigmas(self.num_inference_steps)
                invert(controlled(denoise, control, sigmas), latents, sigmas, keep=sigmas[:1], events=Unsaved(events), key=self.slug)
            else:
                self._noised(controlled(denoise, control, [*self.noise_levels(), 0.0]), latents, seed, events)
        events.metric("model_calls", float(denoise.calls))
        return watch.look(pictures, told, grid)

    def noise_levels(self) -> list[float]:
        """The noise levels at which a real picture is looked at, falling, evenly spaced in their logarithm."""
        low, high = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64).log().tolist()
        return [float(value) for value in torch.linspace(high, low, self.levels, dtype=torch.float64).exp()]

    def _noised(self, denoise: Denoiser, latents: Tensor, seed: int, events: Events) -> None:
        levels = self.noise_levels()
        events.stage(self.slug, len(levels))
        for place, sigma in enumerate(levels):
            fresh = batch_noise(latents.shape[1:], seed, latents.shape[0], stream=RENOISE + place).to(latents)
            denoise(latents + sigma * fresh, sigma)
            events.step()
            events.check()

    def _role(self, guidance: Guidance, events: Events) -> str:
        if self.branch in guidance.labels:
            return self.branch
        events.note(f"without guidance there is no {self.branch} branch; the queries are those of {guidance.labels[0]}")
        return guidance.labels[0]

    def _watch(self, model: TextToImage, role: str, words: Sequence[str], prompts: Sequence[str], size: tuple[int, int]) -> Watch:
        questions: Questions = ()
        if self.store == "maps":
            if not words:
                raise InputError("store='maps' keeps the sums of named words only; name them, or take store='queries'")
            questions = self.questions(model, words, prompts, size)
        refines = self.self_attention < 1
        return Watch(
            model=model,
            factors=self.factors,
            role=role,
            every=self.every,
            questions=questions,
            self_factors=self.self_attention_factors if refines else (),
        )

    def maps(self, look: Look, words: Sequence[str]) -> Float[Tensor, "batch words height width"]:
        """The words' shares in the pictures' size, before any refinement."""
        if self.mode == "in-prompt":
            return look.prompt_maps(words)
        return look.maps(words, context=self.context, rivals=self.competitors(look.prompts), together=self.together)

    def masks(self, look: Look, maps: Float[Tensor, "batch words height width"]) -> Bool[Tensor, "batch words height width"]:
        """Masks from a look's maps, in the pictures' size: refined by self-attention if that was watched, then `cut`."""
        size = (int(maps.shape[-2]), int(maps.shape[-1]))
        refined = None
        if look.received is not None and self.self_attention < 1:
            refined = scaled(maps, self.scaling) * received(look.received, self.self_attention, size)[:, None]
        return self.cut(maps, look.pictures.float(), refined)

    def cut(
        self,
        maps: Float[Tensor, "batch words height width"],
        pictures: Float[Tensor, "batch 3 height width"],
        refined: Float[Tensor, "batch words height width"] | None = None,
    ) -> Bool[Tensor, "batch words height width"]:
        """Maps scaled, brought to the pictures' edges, and cut at the threshold.

        With `together` a pixel also has to prefer its word to all others, and to an even share (1 over words plus one).

        Args:
            maps: the words' shares.
            pictures: of the same size.
            refined: what to cut in their place.
        """
        rows = []
        for row, picture in zip(maps if refined is None else refined, pictures, strict=True):
            rows.append(
                torch.stack([to_mask(one, picture, threshold=self.threshold, scaling=self.scaling, refine=self.refine) for one in row])
            )
        found = torch.stack(rows)
        if self.together and maps.shape[1] > 1:
            found = found & (maps == maps.amax(dim=1, keepdim=True)) & (maps > 1 / (maps.shape[1] + 1))
        return found

    def results(self, look: Look, words: Sequence[str], events: Events = SILENT) -> dict[str, Image | Mask]:
        """What a run saves, of the first picture: the picture, and each word's overlay and mask."""
        maps = self.maps(look, words)
        masks = self.masks(look, maps)
        picture = look.pictures[0].float()
        found: dict[str, Image | Mask] = {"picture": Image(picture)}
        for word, one, mask in zip(words, maps[0], masks[0], strict=True):
            name = re.sub(r"[^\w-]+", "-", word).strip("-") or "word"
            peak = float(one.max())
            events.metric(f"peak_share {word}", peak)
            if not bool(mask.any()):
                events.note(f"{word}: no pixel is above the threshold {self.threshold}, so its mask is empty")
            found[f"{name}-map"] = overlay(picture, scaled(one, "minmax"))
            found[f"{name}-mask"] = Mask(mask)
        return found


Questions = tuple[Question, ...]


class Unsaved(Events):
    """Passes everything on but states: a run that goes on from the middle wouldn't have seen the beginning."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def stage(self, name: str, total: int | None = None) -> None:
        """Pass on."""
        self._events.stage(name, total)

    def step(self, advance: int = 1) -> None:
        """Pass on."""
        self._events.step(advance)

    def note(self, message: str) -> None:
        """Pass on."""
        self._events.note(message)

    def check(self) -> None:
        """Pass on."""
        self._events.check()


def word_mask(
    model: TextToImage,
    image: ImageLike,
    word: str,
    *,
    method: OpenVocabularyAttentionMaps | None = None,
    prompt: str = "",
    seed: int = 0,
    events: Events = SILENT,
) -> Mask:
    """Where a word is in a picture.

    Args:
        model: a text-to-image model.
        image: the picture, of any size.
        word: a word or phrase.
        method: the settings; by default those for the model (`default_settings`).
        prompt: what the network is told about the picture, if anything.
        seed: of the noise that is added.
        events: hears notes.

    Returns:
        The mask, of the picture's size.

    Raises:
        InputError: the word has no token, or its mask is empty.
    """
    refuse_other_roles(model)
    method = method or default_settings(model)
    (asked,) = listed([word])
    picture = as_image(image, name="image", events=events)
    ask(model, (asked,), method.context)
    look = method.look(model, [picture], prompts=[prompt], words=(asked,), seed=seed, events=events)
    values = method.masks(look, method.maps(look, (asked,)))[0, 0]
    if not bool(values.any()):
        raise InputError(f"the word {asked!r} marks no pixel of the picture; try another word, or a threshold below {method.threshold}")
    return Mask(values)


def default_settings(model: TextToImage) -> OpenVocabularyAttentionMaps:
    """`toy()` for an embedded model, `fast()` for any other."""
    row = MODELS.get(model.name)
    return OpenVocabularyAttentionMaps.toy() if row is not None and row.folder is not None else OpenVocabularyAttentionMaps.fast()


def working_size(model: TextToImage, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a picture is looked at: about the model's number of pixels, the picture's shape, sides it can take.

    Sides are multiples of twice the autoencoder's factor, at least a quarter of the model's own.
    """
    _, rows, _ = model.latent_shape()
    grain = 2 * model.size[0] // rows
    scale = (model.size[0] * model.size[1] / (size[0] * size[1])) ** 0.5
    least = max(grain, min(model.size) // 4)
    height, width = (max(least, round(side * scale / grain) * grain) for side in size)
    return height, width


def fitted(pictures: Float[Tensor, "batch 3 height width"], size: tuple[int, int]) -> Float[Tensor, "batch 3 h w"]:
    """Resized as a whole, nothing cut off, so that maps can be brought back."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def overlay(picture: Float[Tensor, "3 height width"], values: Float[Tensor, "height width"]) -> Image:
    """A map in 0..1 as colours from blue through green to red, laid half over the grey picture."""
    grey = picture.mean(dim=0).expand(3, -1, -1)
    stops = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.6, 1.0], [0.2, 0.9, 0.4], [1.0, 0.9, 0.0], [0.8, 0.0, 0.0]])
    place = values.clamp(0, 1).cpu() * (len(stops) - 1)
    below = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - below)[..., None]
    heat = ((1 - share) * stops[below] + share * stops[below + 1]).permute(2, 0, 1)
    return Image((0.5 * grey + 0.5 * heat).clamp(0, 1).float())


def refuse_other_roles(model: object) -> None:
    """Say why a model can't be used, before anything is computed.

    Raises:
        InputError: the model makes no pictures from text with a UNet.
    """
    needed = ("condition", "latent_shape", "encode", "decode", "sigmas", "denoiser", "unet", "modules")
    if all(hasattr(model, name) for name in needed) and "tokenizer" in model.modules and not hasattr(model, "num_frames"):  # type: ignore[attr-defined]
        return
    name = getattr(model, "name", type(model).__name__)
    raise InputError(f"{name} can't be used: ovam reads the cross-attention of a text-to-image UNet; take toy-t2i, SD 1.5, SD 2.1 or SDXL")


def note_unfamiliar(model: TextToImage, images: Sequence[Image], events: Events) -> None:
    """Tell the user of an embedded model when its autoencoder says that the picture is far from what it was trained on."""
    row = MODELS.get(model.name)
    if row is None or row.folder is None:
        return
    pixels = fitted(images[0].pixels[None], working_size(model, images[0].size))
    found = psnr(model.decode(model.encode(pixels)).cpu(), pixels).item()
    if found < FAMILIAR_PSNR_DB:
        public = " or ".join(other for other, known in MODELS.items() if known.role == row.role and known.folder is None)
        events.note(
            f"image: {model.name} was trained on drawn toy scenes and rebuilds this picture with only {found:.1f} dB (its own world:"
            f" {FAMILIAR_PSNR_DB:.0f} or more), so expect poor maps; for photographs take {public}"
        )


def unconditional(model: Any, condition: Condition) -> Condition:
    """The model's own empty prompt."""
    found: Condition = model.unconditional(condition)
    return found


def whole_batch(model: Any, events: Events) -> Any:
    """The model without a bound on its rows, since attention is read from all rows of one call."""
    if getattr(model, "max_rows", None) is None:
        return model
    events.note("max_rows is left aside: attention is read from all rows of one call")
    return model.with_max_rows(None)


def start_scale(model: Any, sigmas: Tensor) -> float:
    """What standard normal noise is multiplied by to start a run."""
    found: float = model.init_noise_sigma(sigmas)
    return found


def model_device(model: Any) -> torch.device:
    """Where the model's networks are."""
    found: torch.device = model.device
    return found


METHOD = OpenVocabularyAttentionMaps
