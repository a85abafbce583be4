"""Harmonized customization: one picture of a subject and a prompt, without training and without the subject picture's pose.

Y. Song, J. Kim, W. Park, W. Shin, W. Rhee, N. Kwak: "Harmonizing Visual and Textual Embeddings for Zero-Shot Text-to-Image Customization",
AAAI 2025, arXiv 2403.14155.

The idea: an encoder turns the picture into visual rows that stand among the prompt's words. They carry the subject's looks, but its pose
too, which fights the prompt's. (1) Take from the visual rows their part in the space of the textual ones; the text stays. (2) Denoise a
second picture beside the first from a visual-only condition, in which nothing fights, and let the first one's queries attend to the
second one's keys and values: the layout stays the prompt's, the looks come from the subject.

    T = U S W',  P = W_r W_r'                            rank-revealing SVD of the textual rows    `projection.text_basis`
    v' = v - eta v P                                     orthogonal visual embedding               `projection.orthogonalise`
    out = softmax(Q_main K_aux' / sqrt(d)) V_aux         self-attention swap                       `swapping.Swapping`

The paper has no public code. What it doesn't say (which embeddings, which rows, which layers, which steps) is a switch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl
from calotype.backbones.subject import SubjectToImage
from calotype.core import fields
from calotype.core.denoiser import Condition
from calotype.core.events import SILENT, Events, Stateless
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.method import Evaluations, Method
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.data import as_image, fit
from calotype.data.images import ImageLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from calotype.methods.harmonized_customization.pictures import prepare_subject
from calotype.methods.harmonized_customization.projection import EmbeddingMixer
from calotype.methods.harmonized_customization.prompts import Prompt, Span, build_prompt
from calotype.methods.harmonized_customization.swapping import AUXILIARY, MAIN, Form, Halves, InBothRuns, Layers, Swapping

NEEDS = "a model whose text encoder takes a subject's visual rows; take toy-subject or a BLIP-Diffusion folder"
INDEPENDENT = 3
"""Stream of the auxiliary run's own noise."""
_CHOICES: dict[str, tuple[str, ...]] = {
    "level": ("output", "input", "both"), "span": ("first", "all"), "subspace": ("text", "random"),
    "conditioning": ("both", "text", "visual"), "visual_only": ("word", "alone", "masked"), "swap": ("kv", "concat", "blend", "off"),
    "swap_layers": ("up", "mid-up", "all"), "swap_halves": ("cond", "both"), "auxiliary_noise": ("same", "independent"),
    "subject_mask": ("off", "on"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Conditioned:
    """What the cross attention reads for one picture."""

    main: Float[Tensor, "1 length width"]
    auxiliary: Float[Tensor, "1 length width"]
    main_words: tuple[int, ...]
    """Places of the target's word."""
    auxiliary_words: tuple[int, ...]
    hidden: Float[Tensor, " length"] | None
    """1 for the rows that the auxiliary run doesn't look at."""
    ratios: Mapping[str, float]
    """By level: the share of the visual rows' norm that lay in the textual subspace."""


@dataclass(frozen=True, kw_only=True)
class HarmonizedCustomization(Method):
    """The subject of one picture in the pose and scene of a prompt (Song et al. 2025), without training.

    Words that describe looks ("a red dog") span directions that the subject's own looks need; long prompts take more away. A swap that
    starts too early copies the auxiliary run's pose, and its ground where no subject mask is used.

    Example:
        >>> method = HarmonizedCustomization.paper()
        >>> method.eta, method.level, method.swap, method.num_inference_steps
        (1.0, 'output', 'kv', 50)
    """

    slug: ClassVar[str] = "harmonized-customization"
    role: ClassVar[str] = "SubjectToImage"
    presets: ClassVar[tuple[str, ...]] = ("paper", "fast", "toy")

    num_inference_steps: int = 50
    """Denoising steps, at least 1 (BLIP-Diffusion: 50)."""
    guidance_scale: float = 7.5
    """Classifier-free guidance (BLIP-Diffusion: 7.5); 1 is off."""
    negative_prompt: str = ""
    """What guidance leads away from; it never holds the subject."""
    height: int | None = None
    """Height in pixels; the model's own by default."""
    width: int | None = None
    """Width in pixels; the model's own by default."""
    prompt_repetitions: int | None = None
    """How often the prompt is repeated; the model's own by default (BLIP-Diffusion: 20, toy-subject: 1). More weighs the words more."""
    eta: float = 1.0
    """How much of the visual rows' textual part is taken away, 0 (none) to 1 (all; the paper)."""
    level: Literal["output", "input", "both"] = "output"
    """Where: on what the text encoder makes (`output`), on its word embeddings (`input`), or on both."""
    span: Span = "first"
    """What spans the textual subspace: the words of the prompt's `first` repetition, or `all` rows of all repetitions."""
    class_word: bool = True
    """Whether the subject's own word belongs to the span."""
    special_rows: bool = False
    """Whether the start, end and padding rows belong to it."""
    energy: float = 1.0
    """Keep the strongest directions with this share of the energy, above 0 to 1."""
    keep_norm: bool = False
    """Give the visual rows their length again after the projection."""
    subspace: Literal["text", "random"] = "text"
    """`random` takes a random subspace of the same rank: a control."""
    visual_scale: float = 1.0
    """Factor on the visual rows after all else, 0 or more; 1 is off."""
    conditioning: Literal["both", "text", "visual"] = "both"
    """`text` leaves the subject out, `visual` the prompt: for comparison."""
    visual_only: Literal["word", "alone", "masked"] = "word"
    """The auxiliary run's condition: "a", the subject and its `word`; the subject `alone`; or the whole prompt with its words `masked`."""
    swap: Form = "kv"
    """Auxiliary keys and values instead of the own (`kv`), beside them (`concat`), inside of the subject only (`blend`), or `off`."""
    swap_layers: Layers = "up"
    """Blocks of the network that swap."""
    swap_start: float = 0.2
    """Share of the steps after which swapping begins, 0 to 1; earlier swaps copy the auxiliary layout."""
    swap_stop: float = 1.0
    """Share of the steps after which it ends."""
    swap_halves: Halves = "cond"
    """Whether the unconditional half of the guidance swaps, too."""
    auxiliary_noise: Literal["same", "independent"] = "same"
    """The auxiliary run's start: the main run's noise, or its own."""
    subject_mask: Literal["off", "on"] = "off"
    """Whether auxiliary keys are limited to where the subject's word looks; `blend` always does, for both runs."""
    mask_threshold: float = 0.5
    """Cut of that map between its lowest and highest value, 0 to 1."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps", "guidance_scale", "prompt_repetitions")
        fields.at_least(self, 0, "visual_scale")
        fields.between(self, 0, 1, "eta", "swap_start", "swap_stop", "mask_threshold")
        fields.sides(self)
        fields.one_of(self, **_CHOICES)
        if not 0 < self.energy <= 1:
            raise InputError(f"energy is {self.energy}; it must be above 0 and at most 1")

    @classmethod
    def paper(cls) -> Self:
        """BLIP-Diffusion's settings; what the paper leaves open is set as the fields say."""
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """Half the steps, as in BLIP-Diffusion's own example."""
        return cls(num_inference_steps=25)

    @classmethod
    def toy(cls) -> Self:
        """For toy-subject. The form of the swap was chosen on the tune split: without a mask it brings the auxiliary run's ground along."""
        return cls(num_inference_steps=12, guidance_scale=3.0, swap="concat", subject_mask="on")

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse an empty prompt."""
        _check_prompt(str(arguments.get("prompt", "")))

    def evaluations(self) -> Evaluations:
        """The main run and, for the swap, the auxiliary one, each with guidance's branches."""
        rows = (2 if self.guidance_scale > 1 else 1) * (1 if self.swap == "off" else 2)
        return Evaluations(rows * self.num_inference_steps, rows)

    def __call__(
        self,
        model: SubjectToImage,
        subject: ImageLike,
        prompt: str,
        *,
        mask: Mask | None = None,
        word: str = "",
        target_word: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> Image:
        """Make a picture of the subject.

        Args:
            model: a model of the role SubjectToImage, as `calotype.load` returns it.
            subject: a picture of the subject; for toy-subject on a plain or transparent ground, or with a mask.
            prompt: what the subject does and where, without the subject itself: "swimming underwater".
            mask: where the subject is, white on black.
            word: what the subject is, such as "dog"; toy-subject knows creatures only.
            target_word: what it shall be called in the new picture, if something else.
            seed: of all noise.
            events: hears steps and notes, and keeps the state of a run that may be interrupted.

        Returns:
            The picture, at the model's size or at `height` and `width`.

        Raises:
            InputError: another role, an empty prompt, no word where one is needed, or a subject that can't be told from its ground.
        """
        self.refuse_other_roles(model, needs=NEEDS)
        _check_prompt(prompt)
        name = word.strip() or model.subject_word
        if not name:
            raise InputError(f"word is empty, and {model.name} needs to know what the subject is; give it, such as --word dog")
        picture = as_image(subject, name="subject", events=events)
        if model.plain_ground is not None and picture.size != model.size:
            events.note(f"subject: {picture.size[1]}x{picture.size[0]} is resized and centre-cropped to {model.size[1]}x{model.size[0]}")
        picture = prepare_subject(picture, model.plain_ground, mask, events=events)
        picture = fit(picture, model.size) if model.plain_ground is not None else picture
        made = self.generate(model, [picture], [prompt], word=name, target_word=target_word.strip(), seed=seed, events=events)
        return Image(made[0].cpu())

    def generate(
        self,
        model: SubjectToImage,
        subjects: Sequence[Image],
        prompts: Sequence[str],
        *,
        word: str,
        target_word: str = "",
        auxiliary: Sequence[Image] | None = None,
        seed: int = 0,
        events: Events = SILENT,
    ) -> Float[Tensor, "batch 3 height width"]:
        """The algorithm, for several pictures at once; picture i comes out as it would alone with `seed + i`.

        Args:
            subjects: ready for the model (`prepare_subject`).
            prompts: one for each.
            word, target_word: see `__call__`.
            auxiliary: other subjects for the auxiliary run; the same by default.
            model, seed, events: see `__call__`; hears the metrics `model_calls` and `projected_output`, `projected_input`.

        Returns:
            Pixels in [0, 1].
        """
        given = [self.conditioned(model, subject, prompt, word, target_word or word, seed + i, events) for i, (subject, prompt) in
                 enumerate(zip(subjects, prompts, strict=True))]  # fmt: skip
        if auxiliary is not None:
            others = [self.conditioned(model, one, prompt, word, target_word or word, seed, SILENT) for one, prompt in
                      zip(auxiliary, prompts, strict=True)]  # fmt: skip
            given = [dataclasses.replace(one, auxiliary=other.auxiliary) for one, other in zip(given, others, strict=True)]
        for level in given[0].ratios:
            events.metric(f"projected_{level}", sum(one.ratios[level] for one in given) / len(given))
        count, size = len(given), (self.height or model.size[0], self.width or model.size[1])
        shape, sigmas = model.latent_shape(size), model.sigmas(self.num_inference_steps)
        scale = model.init_noise_sigma(sigmas)
        z, main = batch_noise(shape, seed, count) * scale, torch.cat([one.main for one in given])
        guidance = ClassifierFreeGuidance(self.guidance_scale)
        if self.swap == "off":
            denoise = model.denoiser(_both(model, main, self.negative_prompt), guidance)
            x = sample(denoise, z, sigmas, preview=lambda x0: Image(model.decode(x0[:1])[0].cpu()), events=events, key=self.slug)
            events.metric("model_calls", float(denoise.calls))
            return model.decode(x)
        y = z if self.auxiliary_noise == "same" else batch_noise(shape, seed, count, stream=INDEPENDENT) * scale
        runs = {MAIN: main, AUXILIARY: torch.cat([one.auxiliary for one in given])}
        conditions = {f"{label}:{run}": condition for run, states in runs.items()
                      for label, condition in _both(model, states, self.negative_prompt).items()}  # fmt: skip
        with AttentionControl(model, latent_size=shape[1:]) as control:
            denoise = model.denoiser(conditions, InBothRuns(guidance), control=control)
            swapping = Swapping(
                control=control, labels=guidance.labels, form=self.swap, layers=self.swap_layers, start=self.swap_start,
                stop=self.swap_stop, halves=self.swap_halves, subject_mask=self.subject_mask == "on", threshold=self.mask_threshold,
                latent_size=shape[1:], main_words=[one.main_words for one in given], auxiliary_words=[one.auxiliary_words for one in given],
                hidden_words=_stacked([one.hidden for one in given]),
            )  # fmt: skip
            x = sample(
                denoise,
                torch.cat([z, y]),
                sigmas,
                step=swapping.step,
                preview=lambda x0: Image(model.decode(x0[:1])[0].cpu()),
                # Masks are averages over all steps, which a saved state doesn't hold.
                events=Stateless(events) if swapping.masked else events,
                key=self.slug,
            )
        events.metric("model_calls", float(denoise.calls))
        return model.decode(x[:count])

    def conditioned(
        self, model: SubjectToImage, subject: Image, prompt: str, word: str, target: str, seed: int = 0, events: Events = SILENT
    ) -> Conditioned:
        """The main and the auxiliary condition of one picture."""
        repetitions = self.prompt_repetitions or model.prompt_repetitions
        text = build_prompt(model, target, prompt, repetitions=repetitions)
        if text.lost:
            events.note(f"prompt: {text.lost} of its tokens don't fit beside the subject's {text.visual} rows and are left out")
        rows = model.subject_rows(subject, word)
        bare = build_prompt(model, target, "", whole=self.visual_only != "alone")
        auxiliary, hidden, words = model.encode_rows(bare.ids, rows), None, bare.class_places
        if self.visual_only == "masked":
            auxiliary, words = model.encode_rows(text.ids, rows), text.class_places
            hidden = torch.ones(auxiliary.shape[1])
            hidden[list(text.visual_places)] = 0.0
        if self.conditioning == "visual":
            return Conditioned(auxiliary, auxiliary, words, words, hidden, {})
        if self.conditioning == "text":
            plain = build_prompt(model, target, prompt, repetitions=repetitions, subject=False)
            return Conditioned(model.encode_rows(plain.ids, None), auxiliary, plain.class_places, words, hidden, {})
        main, ratios = self.orthogonal(model, text, rows, seed)
        return Conditioned(main, auxiliary, text.class_places, words or text.visual_places, hidden, ratios)

    def orthogonal(
        self, model: SubjectToImage, prompt: Prompt, rows: Float[Tensor, "1 rows width"], seed: int
    ) -> tuple[Float[Tensor, "1 length width"], dict[str, float]]:
        """The conditioning with orthogonal visual rows, and by level the share of their norm that lay in the textual subspace."""
        tokens = prompt.span(self.span, class_word=self.class_word, special_rows=self.special_rows)
        random = seed if self.subspace == "random" else None
        keywords: dict[str, Any] = {"energy": self.energy, "keep_norm": self.keep_norm, "random_seed": random}
        words = model.word_rows(prompt.ids)[:, list(tokens)]
        mixer, ratio = EmbeddingMixer.of_branches(words, rows).orthogonal(eta=self.eta if self.level != "output" else 0.0, **keywords)
        ratios = {"input": float(ratio.mean())}
        encoded = model.encode_rows(prompt.ids, mixer.rows[:, len(tokens) :])
        after = EmbeddingMixer(encoded, prompt.visual_places, prompt.places(tokens))
        after, ratio = after.orthogonal(eta=self.eta if self.level != "input" else 0.0, **keywords)
        ratios["output"] = float(ratio.mean())
        made = after.rows
        if self.visual_scale != 1:
            made[:, list(prompt.visual_places)] *= self.visual_scale
        return made, ratios


def _both(model: SubjectToImage, states: Float[Tensor, "rows length width"], negative: str) -> dict[str, Condition]:
    """The conditions of the guidance's branches; the negative prompt is a plain one."""
    none = model.condition([negative]).tensors["text"].expand(len(states), -1, -1)
    return {"cond": Condition({"text": states.to(none)}), "uncond": Condition({"text": none})}


def _stacked(hidden: Sequence[Tensor | None]) -> Float[Tensor, "batch 1 length"] | None:
    """All pictures hide words, or none does."""
    masks = [mask for mask in hidden if mask is not None]
    return torch.stack(masks)[:, None] if masks else None


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise InputError('prompt is empty; say what the subject does and where, such as --prompt "lying on sand"')


METHOD = HarmonizedCustomization
