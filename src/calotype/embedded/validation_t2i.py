"""The gates of `toy-t2i`: does it draw what the caption says, does its attention find it, can a picture be inverted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.metrics import iou

if TYPE_CHECKING:
    from calotype.world import Scene

STEPS, GUIDANCE = 25, 3.0
BATCH = 16
MAP_TIMESTEP, MAP_THRESHOLD = 200, 0.4
"""Noise level of the attention maps and the cut after min-max scaling; chosen on the split `tune`."""
INVERSION_STEPS, INVERSIONS, MAPS, SEEDS = 50, 24, 64, 4
NOISED_SIGMA = 0.09
"""Where the inversion starts, above 0; chosen on the split `tune`: lower gives weaker noise, higher costs more detail."""


def validate(folder: Path, *, seed: int, count: int, device: str = "auto", events: Events = SILENT) -> dict[str, float]:
    """Figures on captions and scenes of the `eval` split; `count` captions, and at most so many scenes for the rest.

    Returns:
        `found_one_object`, `found_two_objects`: share of the named objects that the recogniser finds with their colour. `background`: share
        of right grounds. `attention_iou`: of the category word's map with the true mask. `inversion_loss_db`: PSNR of the autoencoder's
        reconstruction minus that of a picture inverted and sampled again, against the original. `inverted_noise_std` and
        `inverted_noise_std_error`: spread of the inverted latents over sqrt(1 + sigma^2), and its distance from 1, of an inversion that
        starts at a low level with its noise (its round trip: `inversion_loss_db_noised`); `inverted_noise_std_plain`: of one that doesn't.
        `seed_distance`: mean RMSE between pictures of one caption and different seeds. `recogniser_renders` and
        `recogniser_reconstructions`: its ceiling.
    """
    import calotype

    model = calotype.load(str(folder), device=device, dtype="float32")
    figures = _prompts(model, seed, count, events)
    figures["seed_distance"] = _seed_distance(model, seed, min(8, count), events)
    figures["attention_iou"] = attention_iou(model, _scenes(seed + 1, min(MAPS, count)), events)
    figures.update(_inversion(model, _scenes(seed + 2, min(INVERSIONS, count)), events))
    figures["count"] = float(count)
    return figures


def _scenes(seed: int, count: int, split: str = "eval") -> list[Scene]:
    from calotype.world import sample_scene

    return [sample_scene("small", split=split, seed=seed, index=index) for index in range(count)]


def sample(model: Any, captions: Sequence[str], seeds: Sequence[int], *, steps: int = STEPS, guidance: float = GUIDANCE) -> Tensor:
    """Pictures [N, 3, H, W] in [0, 1]; caption i with the noise of seeds[i]."""
    from calotype.core.guidance import ClassifierFreeGuidance
    from calotype.core.noise import noise
    from calotype.core.samplers import sample as run

    shape, made = model.latent_shape(), []
    sigmas = model.sigmas(steps)
    for start in range(0, len(captions), BATCH):
        condition = model.condition(list(captions[start : start + BATCH]))
        denoise = model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, ClassifierFreeGuidance(guidance))
        x = torch.stack([noise(shape, one) for one in seeds[start : start + BATCH]]).to(model.device)
        made.append(model.decode(run(denoise, x * (float(sigmas[0]) ** 2 + 1.0) ** 0.5, sigmas)).cpu())
    return torch.cat(made)


def _prompts(model: Any, seed: int, count: int, events: Events) -> dict[str, float]:
    from calotype.world import paint

    scenes = _scenes(seed, count)
    events.stage("sample captions", count)
    pictures = sample(model, [scene.caption for scene in scenes], range(seed, seed + count))
    events.step(count)
    truth = paint(scenes)
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(part.to(model.device))).cpu() for part in truth.split(BATCH)])
    figures = recognised(pictures, scenes)
    figures["recogniser_renders"] = recognised(truth, scenes)["found"]
    figures["recogniser_reconstructions"] = recognised(again, scenes)["found"]
    return figures


def recognised(pictures: Float[Tensor, "batch 3 height width"], scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of the scenes' objects, and of their grounds, that the recogniser finds in the pictures."""
    from calotype.world import recognise

    slots: dict[int, list[bool]] = {}
    grounds = []
    for scene, seen in zip(scenes, recognise(pictures), strict=True):
        left = [(thing.category, thing.colour) for thing in seen.objects]
        for thing in scene.objects:
            hit = thing.words in left
            if hit:
                left.remove(thing.words)
            slots.setdefault(len(scene.objects), []).append(hit)
        grounds.append(seen.background == scene.background.name)
    every = [hit for hits in slots.values() for hit in hits]
    figures = {"found": sum(every) / max(1, len(every)), "background": sum(grounds) / len(grounds)}
    for number, name in ((1, "found_one_object"), (2, "found_two_objects")):
        if number in slots:
            figures[name] = sum(slots[number]) / len(slots[number])
    return figures


def _seed_distance(model: Any, seed: int, count: int, events: Events) -> float:
    scenes = _scenes(seed + 3, count)
    events.stage("other seeds", count * SEEDS)
    captions = [scene.caption for scene in scenes for _ in range(SEEDS)]
    pictures = sample(model, captions, [seed + 10_000 + i for i in range(len(captions))]).unflatten(0, (count, SEEDS))
    events.step(count * SEEDS)
    distances = [(pictures[:, a] - pictures[:, b]).square().flatten(1).mean(1).sqrt() for a in range(SEEDS) for b in range(a + 1, SEEDS)]
    return float(torch.stack(distances).mean())


def attention_iou(model: Any, scenes: Sequence[Scene], events: Events = SILENT, *, threshold: float = MAP_THRESHOLD) -> float:
    """Mean intersection over union of each scene's first-mentioned object's category map with its visible mask, at 64 px."""
    events.stage("attention maps", len(scenes))
    values = []
    for scene in scenes:
        if not scene.objects:
            continue
        values.append(iou(scaled(word_map(model, scene)) >= threshold, visible_mask(scene, scene.mentions[0])))
        events.step()
    return sum(values) / max(1, len(values))


def scaled(values: Tensor) -> Tensor:
    """From 0 at the least value to 1 at the greatest."""
    return (values - values.min()) / (values.max() - values.min()).clamp(min=1e-8)


def visible_mask(scene: Scene, number: int) -> Tensor:
    """[64, 64] bool: the pixels that change where the object is left out."""
    from dataclasses import replace

    from calotype.world import paint

    kept = [place for place in range(len(scene.objects)) if place != number]
    mentions = tuple(kept.index(place) for place in scene.mentions if place != number)
    without = replace(scene, objects=tuple(scene.objects[place] for place in kept), mentions=mentions)
    both = paint([scene, without])
    return (both[0] - both[1]).abs().amax(0) > 0.05


@torch.no_grad()
def word_map(model: Any, scene: Scene, *, timestep: int = MAP_TIMESTEP, resolutions: tuple[int, ...] = (16, 8)) -> Float[Tensor, "64 64"]:
    """The category word's cross-attention, averaged over heads and layers of these resolutions, on the scene's noised latents."""
    from calotype.attention import AttentionControl, Capture, TokenMaps, sites
    from calotype.core.noise import noise
    from calotype.embedded.networks import alphas_cumprod
    from calotype.world import paint

    place = scene.word_positions[scene.mentions[0]][0] + 1
    latents = model.encode(paint([scene]).to(model.device))
    alpha = float(alphas_cumprod()[timestep])
    noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise(latents.shape[1:], 0).to(latents)
    maps = TokenMaps(tokens=(place,))
    with AttentionControl(model) as control:
        control.add(Capture(what="probs", select=sites(kind="cross", side=resolutions), reduce=maps))
        text = model.condition([scene.caption]).tensors["text"]
        model.unet(noisy, torch.tensor([timestep], device=latents.device), text)
    return maps.combined((64, 64))[0, 0].cpu()


def _inversion(model: Any, scenes: Sequence[Scene], events: Events) -> dict[str, float]:
    """Inversion of real pictures from the level `NOISED_SIGMA`, and the plain one from level 0.

    At level 0 a picture of even grounds lies on a thin sheet, and the directions across it get no noise: the probability-flow equation
    multiplies what is there by the ratio of the levels, and nothing is there. So the plain inversion's noise is too weak however good the
    model is, and weaker the better it knows the sheet. A sample at a level where it has its noise is carried up without that loss.
    """
    from calotype.core.guidance import NoGuidance
    from calotype.core.inversion import invert
    from calotype.core.noise import batch_noise
    from calotype.core.samplers import sample as run
    from calotype.metrics.pictures import psnr
    from calotype.world import paint

    events.stage("invert", len(scenes))
    table = model.sigmas(INVERSION_STEPS)
    raised = torch.cat([table[table > NOISED_SIGMA], table.new_tensor([NOISED_SIGMA])])
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(scenes), BATCH):
        part = list(scenes[start : start + BATCH])
        pictures = paint(part)
        latents = model.encode(pictures.to(model.device)).float()
        denoise = model.denoiser({"cond": model.condition([scene.caption for scene in part])}, NoGuidance())
        best = psnr(model.decode(latents).cpu(), pictures)
        noised = latents + NOISED_SIGMA * batch_noise(latents.shape[1:], start, len(part), stream=1).to(latents)
        for x, levels, spread_name, loss_name in (
            (noised, raised, "inverted_noise_std", "inversion_loss_db_noised"),
            (latents, table, "inverted_noise_std_plain", "inversion_loss_db"),
        ):
            noisy = invert(denoise, x, levels).start.to(model.device)
            spread = (noisy / (float(table[0]) ** 2 + 1.0) ** 0.5).flatten(1).std(1).cpu()
            again = model.decode(run(denoise, noisy, table)).cpu()
            found.setdefault(spread_name, []).append(spread)
            found.setdefault(loss_name, []).append(best - psnr(again, pictures))
        events.step(len(part))
    figures = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    figures["inverted_noise_std_error"] = abs(figures["inverted_noise_std"] - 1.0)
    return figures
