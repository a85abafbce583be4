"""From a finished training to the shipped folder: export, card, gates file, and the rule that a worse model is never shipped."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.errors import InputError
from calotype.imaging.files import write_json
from calotype.train.recipe import Recipe, Source

GATES_FILE = "gates.json"


@dataclass(frozen=True)
class Gate:
    """A bar that a model must reach; `at_most` turns it round."""

    metric: str
    bar: float
    at_most: bool = False

    def holds(self, value: float | None) -> bool:
        """Whether a measured value reaches the bar; an unmeasured one doesn't."""
        if value is None:
            return False
        return value <= self.bar if self.at_most else value >= self.bar


GATES: dict[str, tuple[Gate, ...]] = {
    "toy-vae": (Gate("psnr_db", 29.0), Gate("latent_condition", 2.0, at_most=True)),
    "toy-t2i": (
        Gate("found_one_object", 0.80),
        Gate("found_two_objects", 0.60),
        Gate("background", 0.95),
        Gate("attention_iou", 0.50),
        Gate("inversion_loss_db", 1.5, at_most=True),
        Gate("inverted_noise_std_error", 0.1, at_most=True),
        Gate("seed_distance", 0.05),
    ),
    "toy-i2v": (
        Gate("first_frame_psnr_db", 24.0),
        Gate("kept", 0.80),
        Gate("moves", 0.80),
        Gate("motion_rank_correlation", 0.50),
        Gate("flicker", 3.0 / 255.0, at_most=True),
        Gate("nose_first", 0.80),
        Gate("inversion_psnr_db", 26.0),
    ),
    "toy-subject": (
        Gate("found", 0.80),
        Gate("pose", 0.80),
        Gate("identity_error", 25.0, at_most=True),
        Gate("background", 0.95),
        Gate("caption_found", 0.80),
        Gate("caption_pose", 0.80),
    ),
    "toy-qsm": (
        Gate("error_over_tkd", 0.70, at_most=True),
        Gate("error_over_l2", 0.70, at_most=True),
        Gate("error_over_tv", 1.0, at_most=True),
        Gate("cone_energy_over_tkd", 0.5, at_most=True),
        Gate("roi_slope", 0.9),
        Gate("roi_slope", 1.1, at_most=True),
    ),
    "recogniser": (
        Gate("scene", 0.97),
        Gate("none_empty", 0.95),
        Gate("none_crossfade", 0.95),
        Gate("none_blurred", 0.95),
    ),
}
"""The bars of each embedded model, on the world's `small` preset; `toy-qsm`'s are qsmdiff's claims on brains with 0.006 ppm of noise."""


def weights_mark(folder: Path) -> str | None:
    """A fingerprint of all weights in an exported folder, None where there are none."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_gates(checkpoints: Path) -> dict[str, dict[str, Any]]:
    """What is known of each shipped model: `held_out`, `weights`, `figures`, and how it was trained."""
    path = checkpoints / GATES_FILE
    if not path.is_file():
        return {}
    try:
        known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not a gates file ({error}); restore it from the repository") from error
    return known


def write_gates(checkpoints: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Replace one model's entry; the bars are written beside it, for people who read the file."""
    known = read_gates(checkpoints)
    bars = [{"metric": gate.metric, "bar": gate.bar, "rule": "at most" if gate.at_most else "at least"} for gate in GATES.get(name, ())]
    known[name] = {**facts, "gates": bars}
    write_json(checkpoints / GATES_FILE, known)


def missing_gates(name: str, facts: Mapping[str, Any] | None) -> list[str]:
    """The metrics of a model that are below their bar or unmeasured."""
    figures: Mapping[str, float] = (facts or {}).get("figures") or {}
    return [gate.metric for gate in GATES.get(name, ()) if not gate.holds(figures.get(gate.metric))]


def export(recipe: Recipe, trainee: Any, source: Source, folder: Path) -> None:
    """Write the model's folder beside its place and swap it in."""
    temporary, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    recipe.export(trainee, source, temporary)
    _forget_paths(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _forget_paths(folder: Path) -> None:
    """Leave out of every config where its parts were loaded from on the machine that trained them."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            write_json(path, config)


def write_card(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """The model's README.md: what it is, how it was trained, what it reaches."""
    figures: Mapping[str, float] = facts.get("figures") or {}
    lines = [
        "---",
        f"license: {'apache-2.0' if name in GATES else 'unknown'}",
        f"library_name: {'diffusers' if name in DIFFUSERS else 'calotype'}",
        *(["tags: [toy-world]"] if name in GATES else []),
        "---",
        "",
        f"# {name}",
        "",
        _ABOUT.get(name, ""),
        "",
    ]
    megabytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    lines += ["| | |", "|---|---|"]
    rows = {
        "recipe": f"`calotype train {name}` (calotype.train, recipe `{name}`)",
        "data": f"the toy world, {_DATA.get(name, 'preset `small`')}, split `train`" if name in GATES else "the recipe's own",
        "steps": f"{facts['steps']:,} of {facts['batch_size']} samples ({facts['steps'] * facts['batch_size']:,} samples)",
        "time": f"{facts['seconds'] / 60:.1f} minutes of training",
        "device": facts["device"],
        "precision": f"{facts.get('precision', 'bfloat16')}; weights and optimiser in float32",
        "weights": f"{'8-bit' if any(folder.rglob('*.int8.safetensors')) else 'float16'} safetensors, {megabytes:.1f} MB, moving average",
        "held-out loss": f"{facts['held_out']:.5f} ({facts['held_out_count']:,} fixed samples of the split `tune`)",
        "licence": "Apache-2.0; trained from nothing on " + _MADE_FROM.get(name, "pictures that the toy world paints")
        if name in GATES
        else "as its data's owner says: write it here before you pass the folder on",
    }
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    if facts.get("earlier"):
        lines += ["", f"It went on from earlier weights of {facts['earlier']['steps']:,} steps."]
    lines += ["", "## Gates", ""] if name in GATES else []
    if figures:
        lines += [
            f"`calotype eval {name} --seed {facts.get('figures_seed', 0)}`, scenes of the split `eval`.",
            "",
            "| metric | value | bar | holds |",
            "|---|---|---|---|",
        ]
        bars = {gate.metric: gate for gate in GATES.get(name, ())}
        for metric, value in figures.items():
            gate = bars.get(metric)
            bar = "" if gate is None else f"{'<=' if gate.at_most else '>='} {gate.bar:.3g}"
            holds = "" if gate is None else "yes" if gate.holds(value) else "no"
            lines.append(f"| {metric} | {value:.4g} | {bar} | {holds} |")
    elif name in GATES:
        lines.append(f"Not measured yet: `calotype eval {name}`.")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def device_words(device: str) -> str:
    """The training device in words."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} thread(s), {platform.machine()}"


DIFFUSERS = ("toy-vae", "toy-t2i", "toy-i2v")
"""What diffusers loads as it is."""
_DATA = {"toy-subject": "creatures", "toy-qsm": "synthetic brains of 2 mm"}
_MADE_FROM = {
    "toy-subject": "pictures that the toy world paints (it begins with toy-t2i's weights)",
    "toy-qsm": "maps computed from the ICBM 152 template of 2009 (McConnell Brain Imaging Centre, McGill University), which isn't "
    "part of it; nilearn, which ships it, gives its licence as unknown, and its makers' notice allows use and distribution (unverified)",
}
_ABOUT = {
    "recogniser": (
        "Names the objects, colours, places and the ground of a picture (`calotype.world.recognise`), and says nothing where nothing whole "
        "is. `scene`: exactly the right objects and ground. `found`: objects found with category and colour. `none_...`: pictures of empty "
        "grounds, half-and-half cross-fades and objects blurred by half their radius in which nothing is found. `..._reconstructed`: after "
        "`toy-vae`."
    ),
    "toy-vae": "The toy family's autoencoder: 64 px to 16x16x4 latents of mean 0 and unit covariance (`scaling_factor` 1).",
    "toy-t2i": "Caption to picture of the toy world: a `StableDiffusionPipeline` folder, v-prediction, min-SNR weights.",
    "toy-subject": (
        "Subject picture and caption to picture, of creatures: BLIP-Diffusion's conditioning at small width. A subject encoder makes four "
        'rows that enter the text encoder after the start token and "a"; UNet and text encoder went on from `toy-t2i`. Subject pictures '
        "lie on a plain ground; 70 % of the training's were the target itself, which shows the pose. Weights are stored in 8 bits "
        "with a scale for every 128 (`calotype.backbones.quantized`); the autoencoder is `toy-t2i`'s."
    ),
    "toy-qsm": (
        "Susceptibility of the brain in ppm, windows of 32 voxels of 2 mm, unconditional: MONAI's `DiffusionModelUNet` on blocks of 2 "
        "voxels (`calotype.backbones.volume_network`), v-prediction on DDPM's linear schedule, 0.05 ppm as the unit. 200 synthetic brains "
        "(warped template, nuclei, vessels, lesions; no patient's data). For research and for comparing methods; it is no medical device, "
        "and what it adds to a map is no finding. The figures are those of `qsmdiff` with it, against tuned TKD, L2 and total variation."
    ),
    "toy-i2v": (
        "First frame and caption to 8 frames: a `StableVideoDiffusionPipeline` folder of SVD's topology with `text_encoder` and "
        "`tokenizer` beside, EDM v-prediction, sigma up to 80. The picture token is followed by the caption's tokens in cross-attention's "
        "context; its picture encoder was trained with the UNet. The loss gives a latent of the "
        "ground the weight 1, one that shows an object 4, and adds 2 within one latent of a border, all known from the world's masks."
    ),
}
