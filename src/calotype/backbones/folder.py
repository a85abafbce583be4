"""Looks into a checkpoint folder in the diffusers layout: which parts it has, which files they need, what is missing.

Imports neither torch nor diffusers, so that `calotype doctor` and `calotype models` are quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.core.errors import InputError, MissingError

PIPELINES: dict[str, str] = {
    "StableDiffusionPipeline": "TextToImage",
    "StableDiffusionXLPipeline": "TextToImage",
    "StableVideoDiffusionPipeline": "ImageToVideo",
    "BlipDiffusionPipeline": "SubjectToImage",
    "ToySubjectPipeline": "SubjectToImage",
    "I2VGenXLPipeline": "ImageToVideo",
    "StableDiffusionInstructPix2PixPipeline": "PictureEditor",
    "VolumePriorPipeline": "VolumePrior",
}
"""`_class_name` in model_index.json -> role. A folder that is one AutoencoderKL has the role `Autoencoder`."""

WEIGHTED = {
    "UNet2DConditionModel": "diffusion_pytorch_model",
    "UNetSpatioTemporalConditionModel": "diffusion_pytorch_model",
    "I2VGenXLUNet": "diffusion_pytorch_model",
    "AutoencoderKL": "diffusion_pytorch_model",
    "AutoencoderKLTemporalDecoder": "diffusion_pytorch_model",
    "CLIPTextModel": "model",
    "CLIPTextModelWithProjection": "model",
    "CLIPVisionModelWithProjection": "model",
    "ContextCLIPTextModel": "model",
    "Blip2QFormerModel": "model",
    "SubjectEncoder": "model",
    "DiffusionModelUNet": "model",
}
"""Classes with weights -> the stem of their weight files."""

INT8, ROUNDED = "int8", "model.int8.safetensors"
"""The variant and the file of networks that are stored in 8 bits (`calotype.backbones.rounded`)."""

NEEDED: dict[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": ("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    "StableDiffusionXLPipeline": ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"),
    "StableVideoDiffusionPipeline": ("feature_extractor", "image_encoder", "scheduler", "unet", "vae"),
    "BlipDiffusionPipeline": ("qformer", "scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    "ToySubjectPipeline": ("scheduler", "subject_encoder", "text_encoder", "tokenizer", "unet", "vae"),
    "I2VGenXLPipeline": ("feature_extractor", "image_encoder", "scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    "StableDiffusionInstructPix2PixPipeline": ("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    "VolumePriorPipeline": ("scheduler", "unet"),
}
OPTIONAL: dict[str, dict[str, str]] = {"StableVideoDiffusionPipeline": {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}}
"""Parts that a folder may have beside those that its pipeline class knows, and so names; they are found by their folders."""


@dataclass(frozen=True)
class Part:
    """One component of a checkpoint."""

    name: str
    class_name: str
    folder: Path
    weights: tuple[Path, ...] = ()
    variant: str | None = None
    """The variant of the weight files, such as `fp16`, or None for the plain ones."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder: every file that loading needs is there and has its full length."""

    folder: Path
    pipeline: str
    """The pipeline's class name, or `AutoencoderKL` for a folder that is one autoencoder."""
    role: str
    parts: Mapping[str, Part]

    @property
    def weights(self) -> tuple[Path, ...]:
        """Every weight file, sorted."""
        return tuple(sorted(path for part in self.parts.values() for path in part.weights))

    @property
    def bytes(self) -> int:
        """Bytes of all weight files together."""
        return sum(path.stat().st_size for path in self.weights)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file isn't a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} where a JSON object is expected; fetch the checkpoint again")
    return content


def open_checkpoint(folder: Path, *, variant: str | None = None, half: bool = False, remedy: str = "fetch it again") -> Checkpoint:
    """Check a folder and choose its weight files.

    Args:
        folder: a diffusers pipeline folder, or the folder of one AutoencoderKL.
        variant: the variant of the weight files to read, such as "fp16"; a part that lacks it is read from its plain files. None takes the
            plain files, or the half-precision ones where those are wanted (`half`) or the only ones.
        half: prefer half-precision files, which are smaller to read, because the model will run in half precision anyway.
        remedy: what an error tells the user to do.

    Raises:
        InputError: the folder is no checkpoint, or one that no role exists for, or its weights are pickled.
        MissingError: files are missing or cut short; the message names the first ones.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        if (folder / "config.json").is_file():
            return _open_single(folder, variant=variant, half=half, remedy=remedy)
        raise InputError(f"{folder} is no checkpoint folder: it has neither model_index.json nor config.json; {remedy}")
    content = read_json(index)
    pipeline = str(content.get("_class_name"))
    if pipeline not in PIPELINES:
        raise InputError(f"{folder} is a {pipeline}; calotype reads {', '.join(PIPELINES)} and AutoencoderKL folders")
    problems: list[str] = []
    parts: dict[str, Part] = {}
    extra = OPTIONAL.get(pipeline, {})
    for name in (*NEEDED[pipeline], *extra):
        entry = content.get(name)
        class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if class_name is None and (folder / name).is_dir():
            class_name = extra.get(name)
        if class_name is None:
            if name in NEEDED[pipeline]:
                problems.append(f"model_index.json names no {name}")
            continue
        part, missing = _open_part(name, str(class_name), folder / name, variant=variant, half=half)
        parts[name] = part
        problems += missing
    _raise_problems(folder, problems, remedy)
    _check_variant(folder, parts, variant)
    return Checkpoint(folder, pipeline, PIPELINES[pipeline], parts)


def _open_single(folder: Path, *, variant: str | None, half: bool, remedy: str) -> Checkpoint:
    """A folder that is one model: only an AutoencoderKL has a role."""
    class_name = str(read_json(folder / "config.json").get("_class_name"))
    if class_name != "AutoencoderKL":
        raise InputError(f"{folder} holds one {class_name}; alone, calotype reads AutoencoderKL folders only: give the pipeline's folder")
    part, problems = _open_part("vae", class_name, folder, variant=variant, half=half)
    _raise_problems(folder, problems, remedy)
    _check_variant(folder, {"vae": part}, variant)
    return Checkpoint(folder, class_name, "Autoencoder", {"vae": part})


def _raise_problems(folder: Path, problems: list[str], remedy: str) -> None:
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MissingError(f"{folder} is incomplete: {'; '.join(problems[:3])}{more}; {remedy}")


def _check_variant(folder: Path, parts: Mapping[str, Part], variant: str | None) -> None:
    if variant is not None and all(part.variant != variant for part in parts.values()):
        raise MissingError(
            f'{folder} has no {variant!r} weight files; leave out variant to read the plain ones (variant "fp16" is the usual other)'
        )


def _open_part(name: str, class_name: str, folder: Path, *, variant: str | None, half: bool) -> tuple[Part, list[str]]:
    """One component and what is wrong with it."""
    if name == "scheduler":
        return Part(name, class_name, folder), _need(folder, "scheduler_config.json")
    if name == "feature_extractor":
        return Part(name, class_name, folder), _need(folder, "preprocessor_config.json")
    if name.startswith("tokenizer"):
        problems = [] if (folder / "tokenizer.json").is_file() else _need(folder, "vocab.json") + _need(folder, "merges.txt")
        return Part(name, class_name, folder), problems + _need(folder, "tokenizer_config.json")
    if class_name not in WEIGHTED:
        raise InputError(f"{folder} is a {class_name}; calotype reads {', '.join(WEIGHTED)} there")
    problems = _need(folder, "config.json")
    if (folder / ROUNDED).is_file():
        return Part(name, class_name, folder, (folder / ROUNDED,), INT8), problems + [p for p in [_damage(folder / ROUNDED)] if p]
    files, found, missing = choose_weights(folder, WEIGHTED[class_name], variant=variant, half=half)
    return Part(name, class_name, folder, files, found), problems + missing


def _need(folder: Path, file: str) -> list[str]:
    return [] if (folder / file).is_file() else [f"{folder.name}/{file} is missing"]


def choose_weights(folder: Path, stem: str, *, variant: str | None, half: bool) -> tuple[tuple[Path, ...], str | None, list[str]]:
    """The safetensors files of one component, single or in shards, in the wanted variant or the nearest one.

    Returns:
        The files, their variant, and what is wrong with them (missing or cut short), each in a few words.

    Raises:
        InputError: the folder holds pickled weights only.
    """
    order: list[str | None] = [variant, None] if variant is not None else (["fp16", None] if half else [None, "fp16"])
    tried: list[tuple[tuple[Path, ...], str | None, list[str]]] = []
    for candidate in order:
        files = _weight_files(folder, stem, candidate)
        if files is None:
            continue
        problems = [problem for path in files if (problem := _damage(path))]
        if not problems:
            return files, candidate, []
        tried.append((files, candidate, problems))
    if tried:
        return tried[0]
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")) or any(folder.glob("*.pt")):
        raise InputError(
            f"{folder} has pickled weights only, which can run code when they are read: save the model again with "
            "save_pretrained(..., safe_serialization=True), or fetch its safetensors files"
        )
    return (), None, [f"{folder.name}/{_file_name(stem, variant)} is missing"]


def _file_name(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _weight_files(folder: Path, stem: str, variant: str | None) -> tuple[Path, ...] | None:
    """The files that make up one variant, whether or not they are there; None if the folder doesn't have the variant at all."""
    index = folder / (f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json")
    if index.is_file():
        shards = read_json(index).get("weight_map", {})
        return tuple(folder / shard for shard in sorted(set(shards.values())))
    single = folder / _file_name(stem, variant)
    # A link in the hub's cache whose target is gone still says which file was meant.
    return (single,) if single.is_file() or single.is_symlink() else None


def _damage(path: Path) -> str | None:
    """What is wrong with a safetensors file, judged by its header; None if nothing is."""
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"{name} is cut short at {size} bytes"
        try:
            header = json.loads(file.read(length))
            end = max((tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"{name} is no safetensors file"
    return None if size >= 8 + length + end else f"{name} is cut short at {size} of {8 + length + end} bytes"
