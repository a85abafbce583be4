"""The recipe of `recogniser`: the network that names what is in a picture of the toy world, and what is no object any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.core.events import Events
from calotype.embedded import networks
from calotype.embedded.card import Card, Gate
from calotype.imaging.files import write_json
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.sample_grids import save_grid
from calotype.world import PRESETS, Camera, Scene, paint, sample_scene
from calotype.world.scenes.recogniser import RADIUS, STRIDE, Recogniser, RecogniserNet, load_recogniser
from calotype.world.scenes.recogniser_accuracy import blur, clean_ground, recogniser_accuracy, score, trials

CELLS = networks.SIZE // STRIDE
KINDS: Mapping[str, float] = {"whole": 0.60, "empty": 0.05, "crossfade": 0.13, "blurred": 0.12, "ghost": 0.06, "shuffled": 0.04}
"""What the pictures show and how often: whole objects, none, two scenes in one, blurred or half-transparent objects, tiles of objects."""
WHOLE_BLUR, LOST_BLUR = 0.14, 0.34
"""An object is whole up to a blur of the first share of its radius and none from the second on; between them nothing is learnt."""


class TraineeRecogniser(nn.Module):
    """The loss of one picture: focal loss of the heat + cross entropy of the colour + |error| of place and size near each centre + cross
    entropy of the ground."""

    def __init__(self, net: RecogniserNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`pixels` [B, 3, 64, 64]; `heat` [B, categories, 16, 16] with 1 at the centres; `care` [B, 1, 16, 16], 0 where nothing is learnt;
        `near` [B, 16, 16], weight of colour and place; `colour` [B, 16, 16] int; `place` [B, 3, 16, 16]; `ground` [B] int, -1 for none."""
        out = {name: tensor.float() for name, tensor in self.net(batch["pixels"]).items()}
        target, near = batch["heat"], batch["near"]
        log_yes, log_no = functional.logsigmoid(out["heat"]), functional.logsigmoid(-out["heat"])
        chance = out["heat"].sigmoid()
        centre = target == 1.0
        cost = torch.where(centre, -log_yes * (1 - chance).square(), -log_no * chance.square() * (1 - target) ** 4) * batch["care"]
        heat = cost.flatten(1).sum(1) / centre.flatten(1).sum(1).clamp(min=1)
        weight = near / near.flatten(1).sum(1).clamp(min=1)[:, None, None]
        colour = (functional.cross_entropy(out["colour"], batch["colour"], reduction="none") * weight).flatten(1).sum(1)
        place = ((out["place"] - batch["place"]).abs().sum(1) * weight).flatten(1).sum(1)
        known = batch["ground"] >= 0
        ground = functional.cross_entropy(out["ground"], batch["ground"].clamp(min=0), reduction="none") * known
        loss: Tensor = heat + colour + 0.3 * place + 0.5 * ground
        return loss


class LabelledPictures:
    """Pictures of all `KINDS` with their targets, painted as they are needed."""

    count = 1_000_000

    def __init__(self, net: RecogniserNet, preset: str, split: str, seed: int, device: str) -> None:
        self.net, self.preset, self.split, self.seed, self.device = net, preset, split, seed, device

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        """A sample depends on its number alone: how it is spoilt is part of it."""
        words = (3, 2 if self.split == "tune" else 1, self.seed)
        random = [np.random.Generator(np.random.PCG64(np.random.SeedSequence([*words, row]))) for row in rows]
        kinds = [str(one.choice(list(KINDS), p=list(KINDS.values()))) for one in random]
        scenes = [self._scene(2 * row, one) for row, one in zip(rows, random, strict=True)]
        amounts = torch.from_numpy(np.stack([one.random(6, dtype=np.float32) for one in random]))
        full, strength = paint(scenes, size=networks.SIZE, device=self.device).cpu(), torch.ones(len(rows))
        lost = torch.zeros(len(rows))

        def change(kind: str, made: Callable[[Tensor, Tensor], Tensor]) -> list[int]:
            which = [place for place, name in enumerate(kinds) if name == kind]
            if which:
                full[which] = made(full[which], amounts[which])
            return which

        def clean(which: list[int]) -> Tensor:
            return paint([clean_ground(scenes[place]) for place in which], size=networks.SIZE, device=self.device).cpu()

        places = {kind: [place for place, name in enumerate(kinds) if name == kind] for kind in KINDS}
        change("empty", lambda pixels, a: clean(places["empty"]))
        others = [sample_scene(self.preset, split=self.split, seed=self.seed, index=2 * rows[place] + 1) for place in places["crossfade"]]
        change(
            "crossfade", lambda pixels, a: torch.lerp(pixels, paint(others, size=networks.SIZE), 0.32 + 0.36 * a[:, 0].view(-1, 1, 1, 1))
        )
        for place in (*places["empty"], *places["crossfade"], *places["shuffled"]):
            lost[place] = 1.0

        def ghosts(pixels: Tensor, a: Tensor) -> Tensor:
            which = places["ghost"]
            shown = torch.where(a[:, 0] < 0.75, 0.2 + 0.6 * a[:, 0], 0.9 + 0.1 * (a[:, 0] - 0.75) / 0.25)
            for place, value in zip(which, shown.tolist(), strict=True):
                lost[place] = float(value < 0.7)
            return torch.lerp(clean(which), pixels, shown.view(-1, 1, 1, 1))

        def blurred(pixels: Tensor, a: Tensor) -> Tensor:
            which = places["blurred"]
            mean = torch.tensor([_mean_radius(scenes[place]) for place in which])
            strength[which] = torch.where(a[:, 0] < 0.8, LOST_BLUR + 0.5 * a[:, 0], WHOLE_BLUR * (a[:, 0] - 0.8) / 0.2)
            ground = torch.where((a[:, 1] < 0.6).view(-1, 1, 1, 1), clean(which), torch.zeros(1))
            return ground + blur(pixels - ground, strength[which] * mean * networks.SIZE)

        change("ghost", ghosts)
        change("blurred", blurred)
        change("shuffled", _shuffled)
        blurs = torch.where(torch.tensor([kind == "blurred" for kind in kinds]), strength, 0.0)
        pixels = _weathered(full, amounts, random)
        targets = [self._target(scenes[i], kinds[i], bool(lost[i]), float(blurs[i])) for i in range(len(rows))]
        batch = {name: torch.stack([target[name] for target in targets]) for name in targets[0]}
        return {name: tensor.to(self.device) for name, tensor in {**batch, "pixels": pixels}.items()}

    def _scene(self, index: int, random: np.random.Generator) -> Scene:
        """A scene, a third of them seen by a camera that has moved or zoomed."""
        scene = sample_scene(self.preset, split=self.split, seed=self.seed, index=index)
        if random.random() < 0.33:
            x, y = (0.24 * (random.random(2) - 0.5)).tolist()
            scene = dataclasses.replace(scene, camera=Camera(x=x, y=y, zoom=0.8 * 1.6 ** float(random.random())))
        return scene

    def _target(self, scene: Scene, kind: str, lost: bool, blurred: float) -> dict[str, Tensor]:
        net = self.net
        heat, care = torch.zeros(len(net.categories), CELLS, CELLS), torch.ones(1, CELLS, CELLS)
        near, colour, place = torch.zeros(CELLS, CELLS), torch.zeros(CELLS, CELLS, dtype=torch.long), torch.zeros(3, CELLS, CELLS)
        down, right_ = torch.meshgrid(torch.arange(CELLS) + 0.5, torch.arange(CELLS) + 0.5, indexing="ij")
        for thing in scene.objects if not lost else ():
            (x,), (y,), (radius,), _ = thing.placement(scene.camera, np.zeros(1))
            dx, dy, r = x * CELLS - right_, y * CELLS - down, float(radius) * CELLS
            distance = (dx.square() + dy.square()).sqrt()
            share = blurred * _mean_radius(scene) / float(radius)
            if share >= LOST_BLUR * 0.9:
                continue
            if share > WHOLE_BLUR * 1.1 or min(x, y, 1 - x, 1 - y) < 0.6 * radius:
                # Half gone: neither an object nor nothing.
                care[0][distance < r] = 0.0
                continue
            number = net.categories.index(thing.category)
            peak = torch.exp(-0.5 * (distance / (0.22 * r)).square()).clamp(max=0.999)
            peak.view(-1)[int(distance.argmin())] = 1.0
            heat[number] = torch.maximum(heat[number], peak)
            mine = (distance < max(1.0, 0.4 * r)) & (distance < 2.2)
            near[mine], colour[mine] = 1.0, net.colours.index(thing.colour)
            place[:, mine] = torch.stack([dx, dy, torch.full_like(dx, float(np.log(radius / RADIUS)))])[:, mine]
        ground = -1 if kind in ("crossfade", "shuffled") else net.backgrounds.index(scene.background.name)
        return {"heat": heat, "care": care, "near": near, "colour": colour, "place": place, "ground": torch.tensor(ground)}


def _mean_radius(scene: Scene) -> float:
    """In sides, as the camera shows them."""
    radii = [thing.radius * scene.camera.zoom for thing in scene.objects]
    return sum(radii) / max(1, len(radii))


def _shuffled(pixels: Tensor, amounts: Tensor) -> Tensor:
    """Tiles of 8 px in another order."""
    tiles = pixels.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(int(a * (1 << 24)))) for a in amounts[:, 2]])
    mixed = tiles.gather(2, order[:, None, :, None, None].expand_as(tiles)).reshape(*pixels.shape[:2], 8, 8, 8, 8)
    return mixed.permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)


def _weathered(pixels: Tensor, amounts: Tensor, random: Sequence[np.random.Generator]) -> Tensor:
    """What happens to any picture on its way: a mild blur, other brightness and contrast, noise, fewer pixels."""
    soft = blur(pixels, 0.25 + 1.0 * amounts[:, 3])
    pixels = torch.where((amounts[:, 4] < 0.5).view(-1, 1, 1, 1), soft, pixels)
    light = torch.tensor(np.stack([one.normal(size=(2, 3)) for one in random]), dtype=torch.float32)
    pixels = 0.5 + (pixels - 0.5) * (1 + 0.05 * light[:, 0, :1, None, None]) + 0.02 * light[:, 1, :, None, None]
    grain = torch.from_numpy(np.stack([one.standard_normal((4, *pixels.shape[1:]), dtype=np.float32)[0] for one in random]))
    coarse = functional.interpolate(functional.avg_pool2d(grain, 3, 2, 1), pixels.shape[-2:], mode="bilinear")
    noisy = pixels + 0.08 * amounts[:, 5].view(-1, 1, 1, 1) * torch.where((amounts[:, 4] < 0.3).view(-1, 1, 1, 1), grain, 1.5 * coarse)
    return torch.where((amounts[:, 5] < 0.6).view(-1, 1, 1, 1), noisy, pixels).clamp(0.0, 1.0)


class RecogniserRecipe:
    """64 px pictures of the world's `small` preset, whole and spoilt."""

    name = "recogniser"
    settings = Settings(
        batch_size=32, learning_rate=2e-3, warm_learning_rate=5e-4, decay_share=0.5, ema_decay=0.995, max_grad_norm=5.0,
        sheet_batches=1, export_batches=90,
    )  # fmt: skip
    gates = (
        Gate("scene", 0.97),
        Gate("none_empty", 0.95),
        Gate("none_crossfade", 0.95),
        Gate("none_blurred", 0.95),
    )
    card = Card(
        about=(
            "Names the objects, colours, places and the ground of a picture (`calotype.world.recognise`), and says nothing where nothing "
            "whole is. `scene`: exactly the right objects and ground. `found`: objects found with category and colour. `none_...`: "
            "pictures of empty grounds, half-and-half cross-fades and objects blurred by half their radius in which nothing is found. "
            "`..._reconstructed`: after `toy-vae`."
        ),
    )
    preset = "small"
    width = 16
    tune_count = 1024
    """Scenes that the threshold is chosen on."""

    def build(self, *, seed: int, start: Path | None, checkpoints: Path) -> TraineeRecogniser:
        """The network, from an exported folder or from random weights."""
        if start is not None:
            return TraineeRecogniser(load_recogniser(start).net.requires_grad_(True).train())
        world = PRESETS[self.preset]
        return TraineeRecogniser(
            networks.seeded(seed, lambda: RecogniserNet(world.categories, world.colours, world.backgrounds, width=self.width))
        )

    def source(
        self, trainee: nn.Module, *, split: str, seed: int, folder: Path, checkpoints: Path, start: Path | None, device: str
    ) -> LabelledPictures:
        """Pictures of a split."""
        assert isinstance(trainee, TraineeRecogniser)
        return LabelledPictures(trainee.net, self.preset, split, seed, device)

    def sample_grid(self, trainee: TraineeRecogniser, source: LabelledPictures, path: Path) -> list[Path]:
        """Training pictures as they are (upper rows) and the greatest heat of each cell (lower rows)."""
        rows = range(16)
        pixels = source.batch(rows, BatchRng(0, 0, rows, len(rows)), augment=False)["pixels"]
        with torch.no_grad():
            heat = trainee.net(pixels)["heat"].sigmoid().amax(1, keepdim=True)
        heat = functional.interpolate(heat, scale_factor=STRIDE).expand_as(pixels)
        return [save_grid(torch.cat([torch.cat([pixels[i : i + 8], heat[i : i + 8]]) for i in (0, 8)]), 8, path)]

    def export(self, trainee: TraineeRecogniser, source: LabelledPictures, folder: Path) -> None:
        """fp16 weights, and a config with the threshold that serves scenes and spoilt scenes of the split `tune` best."""
        from safetensors.torch import save_file

        net = trainee.net.eval().cpu()
        half = {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in net.state_dict().items()}
        save_file(half, folder / "model.safetensors")
        write_json(
            folder / "config.json",
            {**net.config(), "preset": source.preset, "size": networks.SIZE, "threshold": best_threshold(net, source, self.tune_count)},
        )

    def validate(self, folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
        """See `recogniser_accuracy`; `..._reconstructed` are its figures on the autoencoder's reconstructions, where there is one."""
        see = load_recogniser(folder)
        events.stage("recognise", 2)
        figures = recogniser_accuracy(seed, count or 1024, recogniser=see)
        events.step()
        if (folder.parent / "toy-vae" / "config.json").is_file():
            import calotype

            vae = calotype.load(str(folder.parent / "toy-vae"), device=device, dtype="float32")

            def through(pictures: Tensor) -> Tensor:
                with torch.no_grad():
                    return torch.cat([vae.decode(vae.encode(part.to(vae.device))).cpu() for part in torch.split(pictures, 64)])

            again = recogniser_accuracy(seed, count or 1024, recogniser=see, through=through)
            figures |= {f"{name}_reconstructed": again[name] for name in ("scene", "found", "background")}
        events.step()
        return figures


def best_threshold(net: RecogniserNet, source: LabelledPictures, count: int) -> float:
    """The score at which the worst of the figures is best, on scenes of the split `tune`; the middle of such scores."""
    scenes, pictures = trials(source.seed, count, preset=source.preset, split="tune")
    every = {name: Recogniser(net, 0.05)(made) for name, made in pictures.items()}

    def worst(threshold: float) -> float:
        figures = score(scenes, {name: [one.above(threshold) for one in seen] for name, seen in every.items()})
        return min(figures[name] for name in ("scene", "none_empty", "none_crossfade", "none_blurred"))

    values = {threshold / 100: worst(threshold / 100) for threshold in range(10, 91, 2)}
    best = [threshold for threshold, value in values.items() if value == max(values.values())]
    return best[len(best) // 2]
