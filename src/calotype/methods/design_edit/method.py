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

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl
from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.core.inversion import invert
from calotype.core.method import Method
from calotype.core.noise import batch_noise
from calotype.core.roles import TextToImage
from calotype.core.samplers import sample
from calotype.core.types import Image, Mask
from calotype.data import as_image
from calotype.data.images import ImageLike
from calotype.index import MODELS, SOURCES
from calotype.methods.design_edit.layered import CellMasks, LayeredStep, Masked, Masking, Network, Schedule, to_cells
from calotype.methods.design_edit.plan import Edit, Flip, Plan, single_edits
from calotype.methods.design_edit.regions import RegionLike, Regions, WordMask, dilate, split_region
from calotype.methods.design_edit.tasks import Task, make_task, resize_pixels, window_of
from calotype.metrics import psnr

FAMILIAR_PSNR_DB = 27.0
"""The toy autoencoder rebuilds pictures of its own world at least this well."""
_SWAP = "pictures:"


@dataclass(frozen=True, eq=False)
class Edited:
    """What came out of the model, before anything is put back."""

    latents: Float[Tensor, "batch channels h w"]
    pixels: Float[Tensor, "batch 3 height width"]
    """Decoded, in [0, 1]."""
    calls: int
    """Evaluations of the network."""


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
    hole_noise: float = 0.0
    """Variance share of fresh noise in the hole at the start, 0 to 1; the rest is the inverted picture's (not in the paper)."""
    hole_eta: float = 0.0
    """Fresh noise in each step inside of the holes, 0 (DDIM) to 1 (DDPM), which makes up for what earlier steps left (not in the paper)."""
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
        if self.num_inference_steps < 2:
            raise InputError(f"num_inference_steps is {self.num_inference_steps}; it must be 2 or more")
        for name in (
            "mask_start",
            "mask_stop",
            "refine_stop",
            "blend_stop",
            "fuse",
            "early_fuse",
            "hole_noise",
            "hole_eta",
            "pull",
            "pull_rate",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.guidance_scale < 1:
            raise InputError(f"guidance_scale is {self.guidance_scale}; it must be 1 or more")
        if self.dilation < 0 or self.feather < 0:
            raise InputError(f"dilation is {self.dilation} and feather {self.feather}; both must be 0 or more")
        for name, choices in (("key_mask", ("zero", "drop")), ("masked", ("key", "query", "value", "none"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")

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
        """For toy-t2i, chosen on the tune split: its hole starts from fresh noise, and masks hold for longer."""
        return cls(
            num_inference_steps=20,
            key_mask="drop",
            mask_stop=0.9,
            refine_stop=0.9,
            blend_stop=0.9,
            fuse=0.9,
            hole_noise=1.0,
            hole_eta=1.0,
            dilation=1.0,
            feather=4,
        )

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
            seed: of the fresh noise, where there is any.
            events: hears steps and notes, and keeps the state of a run that may be interrupted.

        Returns:
            The edited picture, of the size of `image`.

        Raises:
            InputError: the model has another role, a region or a plan can't be used, or nothing is to be done.
        """
        single = single_edits(
            remove=remove, refine=refine, move=move, dx=dx, dy=dy, scale=scale, flip=flip, swap=swap, pan=pan, zoom_out=zoom_out
        )
        whole = Plan(edits=_edits(plan, single))
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
        refuse_other_roles(model)
        pixels = as_image(image, name="image", events=events).pixels
        edits = _with_pictures(plan.edits, pictures, events)
        _check(edits, Regions(Image(pixels), masks))
        note_unfamiliar(model, Image(pixels), events)
        latents: Tensor | None = None
        calls = 0
        last: tuple[tuple[int, int, int, int], tuple[int, int]] | None = None
        for number, edit in enumerate(edits):
            task = make_task(pixels, edit, Regions(Image(pixels), masks, _finder(model)))
            work, window = self._work(model, task, events if number == 0 else SILENT)
            stays = latents if (window, work.size) == last and task.source is pixels else None
            done = self.edit(model, [work], prompts=[prompt], latents=stays, seed=seed, events=events, key=f"{self.slug}-{number}")
            pixels = self._put_back(task, done.pixels[0].cpu(), window, model)
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
            seed: of the first task's fresh noise.
            events: see `__call__`; hears the metric `model_calls`.
            key: name of the stages and of the saved state.

        Returns:
            Latents and pixels as the model leaves them, nothing put back.
        """
        bound = getattr(model, "max_rows", None)
        if bound is not None and len(tasks) > bound:
            raise InputError(f"{len(tasks)} tasks at once are more than the {bound} rows that max_rows allows; give fewer, or raise it")
        size = tasks[0].size
        condition = model.condition(list(prompts) or [""] * len(tasks), size=size)
        sigmas = model.sigmas(self.num_inference_steps)
        cells = self._cells(tasks, size[0] // model.latent_shape(size)[1])
        pasting = bool((cells.layers | cells.hidden).any())
        network, device = Network(model, condition), next(iter(condition.tensors.values())).device
        if not inversion:
            clean = model.encode(torch.stack([task.source for task in tasks])) if latents is None else latents
            if pasting:
                clean = torch.cat([clean, model.encode(torch.stack([task.composite for task in tasks]))])
            levels = self._inverted(network, clean, sigmas, events, key)
            inversion = [[level[: len(tasks)] for level in levels], [level[len(tasks) :] for level in levels]]
        schedule = self._schedule(bool(cells.hidden.any()))
        with AttentionControl(model, roles=("plain", "masked")) as control:
            self._add_rules(control, cells, schedule, pasting)
            step = LayeredStep(
                network=network,
                control=control,
                schedule=schedule,
                guidance_scale=self.guidance_scale,
                pull_rate=self.pull_rate,
                source=inversion[0],
                foreground=inversion[1] if pasting else [],
                hole=cells.hole.to(device),
                layers=cells.layers.to(device),
                hidden=cells.hidden.to(device),
                hole_eta=self.hole_eta,
                denoised_rows=self.rows == "denoised",
                max_rows=bound,
                seed=seed,
            )
            x = sample(
                network,
                self._start(inversion[0][0].to(device), step.hole, float(sigmas[0]), seed),
                sigmas,
                step=step,
                preview=lambda estimate: Image(model.decode(estimate[:1])[0].cpu()),
                events=events,
                key=key,
            )
        events.metric("model_calls", float(network.calls))
        return Edited(x, model.decode(x), network.calls)

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
        return self._inverted(Network(model, condition), model.encode(pictures), sigmas, events, key)

    def prepare(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a run as the run folder keeps them: all edits as one plan, and the files that they name as inputs.

        Raises:
            InputError: a plan, a region or a file that can't be used. All but words is looked at.
        """
        given = dict(arguments)
        single = {name: given.pop(name) for name in _SINGLE if name in given}
        whole = Plan(edits=_edits(given.pop("plan", ""), single_edits(**single)))
        masks, pictures = list(given.pop("masks", ()) or ()), list(given.pop("pictures", ()) or ())

        def place(files: list[Any], path: Path, kind: str) -> str:
            known = [Path(each) if isinstance(each, str | Path) else None for each in files]
            if path not in known:
                files.append(path)
                known.append(path)
            return f"{kind}:{known.index(path)}"

        whole = whole.map_files(lambda path: place(masks, path, "masks"), lambda path: place(pictures, path, "pictures"))
        if "image" in given:
            read = [as_mask(each, f"masks {Path(each).name}" if isinstance(each, str | Path) else "masks") for each in masks]
            shown = [as_image(each, name="pictures") for each in pictures]
            _check(_with_pictures(whole.edits, shown, SILENT), Regions(as_image(given["image"], name="image"), read))
        return {**given, "plan": whole.to_json(), **({"masks": masks} if masks else {}), **({"pictures": pictures} if pictures else {})}

    def _inverted(self, network: Network, clean: Tensor, sigmas: Tensor, events: Events, key: str) -> list[Tensor]:
        """The latents at every level of the run, the clean ones last."""
        path = invert(network, clean, sigmas, keep=sigmas, events=events, key=f"{key}-inversion")
        return [*path.latents, clean.float()]

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

    def _cells(self, tasks: Sequence[Task], factor: int) -> CellMasks:
        """The tasks' masks at the latents' size, grown by the dilation."""
        radius = round(self.dilation * factor)

        def grown(name: str, by: int) -> Tensor:
            return to_cells(torch.stack([dilate(getattr(task, name), by) for task in tasks]), factor)

        hole, refine, layers = grown("hole", radius), grown("refine", radius // 2), grown("layers", 0)
        # Around a layer the composite is the picture itself, so that its border comes along; but not where the old place is filled.
        filled = to_cells(torch.stack([task.hole & ~task.layers for task in tasks]), factor) > 0.25
        layers = (layers >= 0.5) | ((grown("layers", radius) >= 0.5) & ~filled)
        hidden = (grown("hidden", 0) > 0.25) & ~(grown("layers", 0) >= 0.75)
        return CellMasks(hole >= 0.5, refine >= 0.5, layers & ~hidden, hidden, hole)

    def _add_rules(self, control: AttentionControl, cells: CellMasks, schedule: Schedule, pasting: bool) -> None:
        masking = Masking(what=self.masked, drop=self.key_mask == "drop" and self.masked == "key")
        first, stop = schedule.mask.start, schedule.mask.stop
        background_stop = min(stop, schedule.fuse) if pasting else stop
        wide = min(schedule.refine_stop, background_stop) if bool(cells.refine.any()) else first
        hole = cells.hole.float()
        masking.add(control, (cells.hole | cells.refine).float(), first, wide)
        masking.add(control, hole, max(first, wide), background_stop)
        if pasting:
            masking.add(control, cells.hidden.float(), max(first, schedule.fuse), stop)

    def _start(self, x: Tensor, hole: Tensor, sigma: float, seed: int) -> Tensor:
        if self.hole_noise == 0:
            return x
        fresh = batch_noise(tuple(x.shape[1:]), seed, len(x)).to(x) * (sigma**2 + 1) ** 0.5
        mixed = (1 - self.hole_noise) ** 0.5 * x + self.hole_noise**0.5 * fresh
        return torch.where(hole[:, None], mixed, x)

    def _work(self, model: TextToImage, task: Task, events: Events) -> tuple[Task, tuple[int, int, int, int]]:
        """The part of the picture that is worked on, at a size that the model knows."""
        height, width = task.size
        window = (0, 0, height, width)
        if height * width > 1.1 * model.size[0] * model.size[1] and not bool((task.touched[0] & task.touched[-1]).any()):
            window = window_of([task], model.size, task.size, margin=min(model.size) // 4)
        part = task.crop(window)
        size = work_size(model, part.size)
        if window != (0, 0, height, width):
            events.note(
                f"image: of its {width}x{height} px the {part.size[1]}x{part.size[0]} around the edit are worked on, the others stay"
            )
        if size != part.size:
            kept = "; untouched pixels stay as they are" if self.keep_outside == "pixels" else ""
            events.note(f"image: {part.size[1]}x{part.size[0]} px resized to {size[1]}x{size[0]} for the model and back{kept}")
        return part.resize(size), window

    def _put_back(self, task: Task, edited: Float[Tensor, "3 h w"], window: tuple[int, int, int, int], model: TextToImage) -> Tensor:
        """The edited part in its place; outside of the dilated masks every pixel is the source's own."""
        top, left, bottom, right = window
        whole = task.base.clone()
        part = edited if edited.shape[1:] == (bottom - top, right - left) else resize_pixels(edited, (bottom - top, right - left))
        if self.keep_outside == "latent":
            whole[:, top:bottom, left:right] = part
            return whole
        return blend(task, part, window, self._reach(model, part.shape[1], edited.shape[1]), self.feather)

    def _reach(self, model: TextToImage, shown: int, worked: int) -> int:
        """The dilation in pixels of the picture."""
        factor = model.size[0] // model.latent_shape(model.size)[1]
        return max(1, round(self.dilation * factor * shown / worked))


_SINGLE = ("remove", "refine", "move", "dx", "dy", "scale", "flip", "swap", "pan", "zoom_out")


def blend(task: Task, part: Float[Tensor, "3 h w"], window: tuple[int, int, int, int], dilation: int, feather: int) -> Tensor:
    """The task's picture with the edited part blended into it: exactly the source outside of the dilated mask."""
    top, left, bottom, right = window
    edited = task.base.clone()
    edited[:, top:bottom, left:right] = part
    weights = torch.zeros(task.size)
    weights[top:bottom, left:right] = task.weights(dilation, feather)[top:bottom, left:right]
    return torch.where(weights > 0, torch.lerp(task.base, edited, weights), task.base)


def work_size(model: TextToImage, size: tuple[int, int]) -> tuple[int, int]:
    """The size that a picture of `size` is worked on: about the model's number of pixels in about the picture's shape."""
    factor = model.size[0] // model.latent_shape(model.size)[1]
    config = getattr(getattr(model, "unet", None), "config", None)
    multiple = factor * 2 ** (len(getattr(config, "block_out_channels", (1,))) - 1)
    area, own = model.size[0] * model.size[1], size[0] * size[1]
    if all(side % multiple == 0 for side in size) and 0.5 * area <= own <= 1.1 * area:
        return size
    scale = (area / own) ** 0.5
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def as_mask(value: Any, name: str) -> Mask:
    """A mask, or what a file of one shows."""
    return value if isinstance(value, Mask) else Mask(as_image(value, name=name).pixels.mean(dim=0) >= 0.5)


def _edits(plan: str, single: Sequence[Edit]) -> tuple[Edit, ...]:
    if not plan:
        if not single:
            raise InputError("nothing is to be done; give remove, move, swap, pan, zoom_out or a plan")
        return tuple(single)
    if single:
        raise InputError("give a plan or single edits, not both")
    return Plan.read(plan).edits


def _with_pictures(edits: Sequence[Edit], pictures: Sequence[Image], events: Events) -> list[Edit]:
    """The edits with every layer's picture read."""

    def shown(value: ImageLike) -> Image:
        if isinstance(value, str) and value.startswith(_SWAP):
            number = value.removeprefix(_SWAP)
            if not number.isdigit() or int(number) >= len(pictures):
                raise InputError(f"image: {value!r} names none of the {len(pictures)} pictures that were given; the first is pictures:0")
            return pictures[int(number)]
        return as_image(value, name="image of a layer", events=events)

    return [
        dataclasses.replace(
            edit,
            layers=tuple(layer if layer.image is None else dataclasses.replace(layer, image=shown(layer.image)) for layer in edit.layers),
        )
        for edit in edits
    ]


def _check(edits: Sequence[Edit], regions: Regions) -> None:
    """Read every region but words, and try the first edit if no word is among them."""
    for number, edit in enumerate(edits):
        named: list[tuple[str, RegionLike, Regions]] = [
            (name, region, regions) for name in ("remove", "refine", "swap") for region in getattr(edit, name)
        ]
        for layer in edit.layers:
            own = regions if not isinstance(layer.image, Image) else dataclasses.replace(regions, image=layer.image)
            named += [("layers: mask", layer.mask, own)] + ([] if layer.hidden_by is None else [("hidden_by", layer.hidden_by, own)])
        words = False
        for name, region, own in named:
            if isinstance(region, str) and split_region(region)[0] == "word":
                words = True
            else:
                own.read(region, name)
        if number == 0 and not words:
            make_task(regions.image.pixels, edit, regions)


def _finder(model: TextToImage) -> WordMask:
    """What finds a word's region in a picture, with the method that the table names for it."""

    def find(image: Image, word: str) -> Mask:
        module, _, name = SOURCES["word"].partition(":")
        found: Mask = getattr(import_module(module), name)(model, image, word)
        return found

    return find


def refuse_other_roles(model: object) -> None:
    """Say why a model can't be used, before anything is computed.

    Raises:
        InputError: the model makes no pictures from prompts on a UNet.
    """
    needed = ("condition", "latent_shape", "encode", "decode", "sigmas", "denoiser", "unet")
    if all(hasattr(model, name) for name in needed) and not hasattr(model, "num_frames"):
        return
    name = getattr(model, "name", type(model).__name__)
    raise InputError(
        f"{name} can't be used: design-edit needs a text-to-image model with a UNet; take toy-t2i, SD 1.5, SD 2.1 or SDXL"
        " (stabilityai/stable-diffusion-xl-base-1.0)"
    )


def note_unfamiliar(model: TextToImage, image: Image, events: Events) -> None:
    """Tell the user of an embedded model when its autoencoder says that the picture is far from what it was trained on."""
    row = MODELS.get(model.name)
    if row is None or row.folder is None:
        return
    pixels = resize_pixels(image.pixels, work_size(model, image.size))[None]
    found = psnr(model.decode(model.encode(pixels)).cpu(), pixels.cpu()).item()
    if found < FAMILIAR_PSNR_DB:
        events.note(
            f"image: {model.name} was trained on drawn toy scenes and rebuilds this picture with only {found:.1f} dB (its own world:"
            f" {FAMILIAR_PSNR_DB:.0f} or more), so expect a poor edit; for photographs take a public checkpoint such as SDXL"
        )


METHOD = DesignEdit
