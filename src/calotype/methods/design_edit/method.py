"""DesignEdit: objects removed, moved, resized, mirrored, swapped, the camera panned and drawn back, without training.

Y. Jia, Y. Yuan, A. Cheng, C. Wang, J. Li, H. Jia, S. Zhang: "DesignEdit: Multi-Layered Latent Decomposition and Fusion for Unified &
Accurate Image Editing", AAAI 2025, arXiv 2403.14487.

The idea: follow the picture up the noise levels (DDIM inversion). On the way down, hide the hole's tokens as keys of the self-attention,
so that the hole is made of what surrounds it, and amplify what the hiding changes as guidance does. Everything else is put back from the
inversion at every step. Objects are pasted as layers shortly before the end, and the last steps join them with the background.

    x*_s  = invert(x)                                        `calotype.core.inversion.invert`
    D     = D_plain + g (D_masked - D_plain)                 keys of the hole times 0     `layered.LayeredStep`
    x    <- M step(x, D) + (1 - M) x*_s                      until the blending stops
    x    <- x (1 - L) + x*_composite L                       once, at the fusion
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl
from calotype.backbones.preprocessing import note_unfamiliar, working_size
from calotype.core import fields
from calotype.core.denoiser import Condition
from calotype.core.events import SILENT, Events
from calotype.core.guidance import NoGuidance
from calotype.core.inversion import invert
from calotype.core.method import Evaluations, Method, Place
from calotype.core.roles import HasAttention, TextToImage
from calotype.core.samplers import sample
from calotype.core.stepping import check_bound
from calotype.data import as_image, resize_pixels
from calotype.data.images import ImageLike
from calotype.imaging.types import Image, Mask
from calotype.methods.design_edit.arguments import check, chosen_edits, named_files, recorded, with_pictures, word_finder
from calotype.methods.design_edit.layered import PLAIN, ROLES, CellMasks, Edited, LayeredStep, Masked, Masking, Schedule
from calotype.methods.design_edit.plan import Flip, Plan, single_edits
from calotype.methods.design_edit.regions import Regions, Window
from calotype.methods.design_edit.tasks import Task, make_task
from calotype.methods.design_edit.windows import blend, note_window, window_of

_NEEDS = "a text-to-image model with a UNet; take toy-t2i, SD 1.5, SD 2.1 or SDXL (stabilityai/stable-diffusion-xl-base-1.0)"


@dataclass(frozen=True, kw_only=True)
class DesignEdit(Method):
    """Layered editing (Jia et al. 2024): remove, move, resize, mirror, swap, compose, pan and zoom out, without training.

    Every pixel outside of the dilated masks stays as it is, bit for bit. Shadows and reflections of an object stay too, unless the mask
    holds them; large holes smear; an object of the same kind nearby may be copied into the hole, which `refine` prevents.

    Example:
        >>> method = DesignEdit.paper()
        >>> method.num_inference_steps, method.guidance_scale, method.key_mask
        (50, 7.5, 'zero')
    """

    slug: ClassVar[str] = "design-edit"
    role: ClassVar[str] = "TextToImage"
    presets: ClassVar[tuple[str, ...]] = ("paper", "fast", "toy")

    num_inference_steps: int = 50
    """Steps of the inversion and of the way back, at least 2 (official code: 50)."""
    guidance_scale: float = 7.5
    """How much the effect of the masked keys is amplified; 1 takes it as it is (official code: 7.5)."""
    key_mask: Literal["zero", "drop"] = "zero"
    """`zero` multiplies masked keys by 0, so that they still get a small share of the attention (official code); `drop` leaves them out."""
    masked: Masked = "key"
    """What is masked in the self-attention; anything but `key` is there for comparison."""
    mask_start: float = 0.02
    """Share of the steps after which masking begins (official code: step 1 of 50)."""
    mask_stop: float = 0.8
    """Share of the steps after which it ends (official code: step 40 of 50)."""
    refine_stop: float = 0.52
    """Share of the steps after which the refining mask no longer counts (official code: step 26 of 50)."""
    blend_stop: float = 0.82
    """Share of the steps during which the outside of the holes is put back (official code: 41 of 50)."""
    fuse: float = 0.84
    """Share of the steps after which the layers are pasted (official code: 42 of 50); 1 pastes them at the end."""
    early_fuse: float = 0.5
    """The same where a hidden part comes to light and has to be drawn on the canvas (`hidden_by`)."""
    pull: float = 0.4
    """Share of the steps, at the end, in which the background is pulled towards the inversion (official code: t < 400)."""
    pull_rate: float = 0.1
    """How much of the distance a step's pull removes (official code: 0.1)."""
    dilation: float = 1.25
    """Growth of the masks, in latent cells (official code: 10 px at 1024 px, which are 1.25 cells)."""
    feather: int = 8
    """Width in pixels of the final blend's ramp; it lies inside of the dilated mask and never exceeds the dilation."""
    keep_outside: Literal["pixels", "latent"] = "pixels"
    """`pixels` puts the untouched pixels back at the end, bit for bit; `latent` returns what the autoencoder makes of the whole picture."""
    rows: Literal["inversion", "denoised"] = "inversion"
    """Where untouched rows come from: read from the stored inversion, at no cost, or denoised along without guidance (official code)."""

    def __post_init__(self) -> None:
        fields.at_least(self, 0, "dilation", "feather")
        fields.at_least(self, 1, "guidance_scale")
        fields.at_least(self, 2, "num_inference_steps")
        fields.between(self, 0, 1, "mask_start", "mask_stop", "refine_stop", "blend_stop", "fuse", "early_fuse", "pull", "pull_rate")
        fields.one_of(self, key_mask=("zero", "drop"), masked=("key", "query", "value", "none"))

    @classmethod
    def paper(cls) -> Self:
        """The official code's settings, for SDXL (and SD 1.x and 2.x)."""
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """Half the steps."""
        return cls(num_inference_steps=25)

    @classmethod
    def toy(cls) -> Self:
        """For toy-t2i, chosen on the tune split: masked keys are left out altogether, masks hold for longer, and less is amplified."""
        return cls(
            num_inference_steps=20,
            guidance_scale=4.0,
            key_mask="drop",
            mask_stop=0.9,
            refine_stop=0.9,
            blend_stop=0.9,
            fuse=0.9,
            dilation=1.0,
            feather=4,
        )

    def evaluations(self) -> Evaluations:
        """Of a removal: the inversion, the way back, and the masked rows."""
        n = self.num_inference_steps
        return Evaluations(2 * n + len(self._schedule(False).mask), 2)

    def __call__(
        self,
        model: TextToImage,
        image: ImageLike,
        *,
        remove: tuple[str, ...] = (),
        refine: tuple[str, ...] = (),
        move: str | None = None,
        dx: float = 0.0,
        dy: float = 0.0,
        scale: float = 1.0,
        flip: Flip = "none",
        swap: tuple[str, ...] = (),
        pan: tuple[float, float] = (0.0, 0.0),
        zoom_out: float = 1.0,
        plan: str = "",
        masks: Sequence[Mask] = (),
        pictures: Sequence[Image] = (),
        prompt: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> Image:
        """Edit a picture.

        Args:
            model: a text-to-image model, as `calotype.load` returns it.
            image: the picture to edit, of any size.
            remove: what goes away: mask files, box:l,t,r,b or polygon:x,y x,y x,y in pixels, or words.
            refine: what the holes must not be filled with, such as a second object of the same kind.
            move: what is moved, resized or mirrored, given as a region.
            dx: to the right, in widths of the picture.
            dy: down, in heights of the picture.
            scale: about the object's centre.
            flip: mirror about the object's centre: h, v or hv.
            swap: two regions that change places.
            pan: how far the camera goes right and down, in sides of the picture.
            zoom_out: how much more is in view afterwards, 1 to 4.
            plan: a JSON file with edits, for all that the single arguments can't say.
            masks: masks that regions name as masks:0, masks:1, ...
            pictures: pictures that a plan's layers name as pictures:0, pictures:1, ...
            prompt: what the picture shows; the empty prompt is the paper's, and the most faithful to the picture.
            seed: of the fresh noise where a hidden part comes to light; nothing else is random.
            events: hears steps and notes, and keeps the state of a run that may be interrupted.

        Returns:
            The edited picture, of the size of `image`.

        Raises:
            InputError: the model has another role, a region or a plan can't be used, or nothing is to be done.
        """
        single = single_edits(
            remove=remove, refine=refine, move=move, dx=dx, dy=dy, scale=scale, flip=flip, swap=swap, pan=pan, zoom_out=zoom_out
        )
        whole = Plan(edits=chosen_edits(plan, single))
        return self.apply(model, image, whole, masks=masks, pictures=pictures, prompt=prompt, seed=seed, events=events)

    def apply(
        self,
        model: TextToImage,
        image: ImageLike,
        plan: Plan,
        *,
        masks: Sequence[Mask] = (),
        pictures: Sequence[Image] = (),
        prompt: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> Image:
        """Edit a picture by a plan, whose regions and pictures may also be objects.

        Args:
            plan: the edits, one after the other; between them the picture stays in latents where nothing has to be resized.
            model, image, masks, pictures, prompt, seed, events: see `__call__`.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(HasAttention,))
        pixels = as_image(image, name="image", events=events).pixels
        edits = with_pictures(plan.edits, pictures, events)
        check(edits, Regions(Image(pixels), masks))
        note_unfamiliar(model, Image(pixels), events, name="image", expect="a poor edit")
        latents: Tensor | None = None
        calls = 0
        last: tuple[Window, tuple[int, int]] | None = None
        for number, edit in enumerate(edits):
            task = make_task(pixels, edit, Regions(Image(pixels), masks, word_finder(model)))
            window = window_of(task, model.size)
            work = task.crop(window)
            work = work.resize(working_size(model, work.size))
            if number == 0:
                note_window(task.size, window, work.size, events, whole=self.keep_outside == "latent")
            stays = latents if (window, work.size) == last and task.source is pixels else None
            done = self.edit(model, [work], prompts=[prompt], latents=stays, seed=seed, events=events, key=f"{self.slug}-{number}")
            part = resize_pixels(done.pixels[0].cpu(), (window.height, window.width))
            factor = model.size[0] // model.latent_shape(model.size)[1]
            reach = max(1, round(self.dilation * factor * window.height / work.size[0]))
            pixels = window.paste(task.source, part) if self.keep_outside == "latent" else blend(task, part, window, reach, self.feather)
            latents, last, calls = done.latents, (window, work.size), calls + done.calls
        events.metric("model_calls", float(calls))
        return Image(pixels)

    def edit(
        self,
        model: TextToImage,
        tasks: Sequence[Task],
        *,
        prompts: Sequence[str] = (),
        latents: Float[Tensor, "batch channels h w"] | None = None,
        inversion: Sequence[Sequence[Tensor]] = (),
        seed: int = 0,
        events: Events = SILENT,
        key: str = "design-edit",
    ) -> Edited:
        """The algorithm, for several tasks of one size at once; task i comes out as it would alone with `seed + i`.

        Args:
            model: see `__call__`.
            tasks: what is to be done.
            prompts: one per task, or none.
            latents: the sources' clean latents, where the pictures come from an edit before; encoded from the pixels otherwise.
            inversion: what `inverted` gave for the sources, and for the composites, if that is known already.
            seed: of the first task's fresh noise, which only a hidden part that comes to light needs.
            events: see `__call__`; hears the metric `model_calls`.
            key: name of the stages and of the saved state.

        Returns:
            Latents and pixels as the model leaves them, nothing put back.
        """
        check_bound(model.max_rows, len(tasks))
        size = tasks[0].size
        condition = model.condition(list(prompts) or [""] * len(tasks), size=size)
        sigmas = model.sigmas(self.num_inference_steps)
        factor = size[0] // model.latent_shape(size)[1]
        cells = CellMasks.of(tasks, factor, round(self.dilation * factor))
        pasting = bool((cells.layers | cells.hidden).any())
        device, calls = next(iter(condition.tensors.values())).device, 0
        if not inversion:
            clean = model.encode(torch.stack([task.source for task in tasks])) if latents is None else latents
            if pasting:
                clean = torch.cat([clean, model.encode(torch.stack([task.composite for task in tasks]))])
            levels, calls = self._inverted(model, condition, clean, sigmas, events, key)
            inversion = [[level[: len(tasks)] for level in levels], [level[len(tasks) :] for level in levels]]
        schedule = self._schedule(bool(cells.hidden.any()))
        masking = Masking(what=self.masked, drop=self.key_mask == "drop" and self.masked == "key")
        with AttentionControl(model, roles=ROLES) as control:
            network = model.denoiser(dict.fromkeys(ROLES, condition), NoGuidance(PLAIN), control=control)
            masking.add_all(control, cells, schedule, pasting)
            step = LayeredStep(
                network=network,
                schedule=schedule,
                guidance_scale=self.guidance_scale,
                pull_rate=self.pull_rate,
                source=inversion[0],
                foreground=inversion[1] if pasting else [],
                hole=cells.hole.to(device),
                layers=cells.layers.to(device),
                hidden=cells.hidden.to(device),
                denoised_rows=self.rows == "denoised",
                seed=seed,
            )
            x = sample(
                network,
                inversion[0][0].to(device),
                sigmas,
                step=step,
                preview=lambda estimate: Image(model.decode(estimate[:1])[0].cpu()),
                events=events,
                key=key,
            )
        events.metric("model_calls", float(calls + network.calls))
        return Edited(x, model.decode(x), calls + network.calls)

    def inverted(
        self,
        model: TextToImage,
        pictures: Float[Tensor, "batch 3 height width"],
        *,
        prompts: Sequence[str] = (),
        events: Events = SILENT,
        key: str = "design-edit",
    ) -> list[Tensor]:
        """The latents of pictures at every noise level of the run, falling, the clean ones last: one model call per picture and step."""
        condition = model.condition(list(prompts) or [""] * len(pictures), size=(pictures.shape[2], pictures.shape[3]))
        sigmas = model.sigmas(self.num_inference_steps)
        return self._inverted(model, condition, model.encode(pictures), sigmas, events, key)[0]

    def prepare(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a run as the run folder keeps them: see `arguments.recorded`."""
        return recorded(arguments)

    def places(self, arguments: Mapping[str, Any]) -> tuple[Place, ...]:
        """The plan, if it is a file, and every mask and picture that it or a single edit names."""
        return (*super().places(arguments), *(Place(name, "reads", path) for name, path in named_files(arguments)))

    def _inverted(
        self, model: TextToImage, condition: Condition, clean: Tensor, sigmas: Tensor, events: Events, key: str
    ) -> tuple[list[Tensor], int]:
        """The latents at every level of the run, the clean ones last, and the rows evaluated; several pictures may share a condition."""
        network = model.denoiser({"cond": Condition.cat([condition] * (len(clean) // condition.rows))}, NoGuidance())
        path = invert(network, clean, sigmas, keep=sigmas, events=events, key=f"{key}-inversion")
        return [*path.latents, clean.float()], network.calls

    def _schedule(self, early: bool) -> Schedule:
        n = self.num_inference_steps
        return Schedule(
            count=n,
            mask=range(round(self.mask_start * n), round(self.mask_stop * n)),
            refine_stop=round(self.refine_stop * n),
            blend_stop=round(self.blend_stop * n),
            pull_start=n - round(self.pull * n),
            fuse=max(1, round((min(self.early_fuse, self.fuse) if early else self.fuse) * n)),
        )


METHOD = DesignEdit
