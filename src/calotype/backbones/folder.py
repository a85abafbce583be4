"""Looks into a checkpoint folder in the diffusers layout: which parts it has, which files they need, what is missing.

Imports neither torch nor diffusers, so that `calotype doctor` and `calotype models` are quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.backbones.headers import MOST_VOCABULARY_BYTES, damage, excess, read_json, tensor_count
from calotype.errors import InputError, MissingError
from calotype.imaging.boundary import refusing

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

SAME_PARTS: dict[str, str] = {
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline": "StableDiffusionXLPipeline",
}
"""Pipelines that are another way to use the same networks; their folders and objects are read as that pipeline's."""

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
"""The variant and the file of networks that are stored in 8 bits (`calotype.backbones.quantized`)."""

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


def open_checkpoint(folder: Path, *, variant: str | None = None, half: bool = False, remedy: str = "fetch it again") -> Checkpoint:
    """Check a folder and choose its weight files.

    Args:
        folder: a diffusers pipeline folder, or the folder of one AutoencoderKL.
        variant: the variant of the weight files to read, such as "fp16"; a part that lacks it is read from its plain files. None takes the
            plain files, or the half-precision ones where those are wanted (`half`) or the only ones.
        half: prefer half-precision files, which are smaller to read, because the model will run in half precision anyway.
        remedy: what an error tells the user to do.

    Raises:
        InputError: the folder is no checkpoint, or one that no role exists for, its weights are pickled, or its files say what can't be.
        MissingError: files are missing or cut short; the message names the first ones.
    """
    with refusing(str(folder), remedy):
        return _open(folder, variant=variant, half=half, remedy=remedy)


def _open(folder: Path, *, variant: str | None, half: bool, remedy: str) -> Checkpoint:
    index = folder / "model_index.json"
    if not index.is_file():
        if (folder / "config.json").is_file():
            return _open_single(folder, variant=variant, half=half, remedy=remedy)
        raise InputError(f"{folder} is no checkpoint folder: it has neither model_index.json nor config.json; {remedy}")
    content = read_json(index)
    pipeline = base_pipeline(str(content.get("_class_name")))
    if pipeline not in PIPELINES:
        raise InputError(f"{folder} is a {pipeline}; calotype reads {', '.join((*PIPELINES, *SAME_PARTS))} and AutoencoderKL folders")
    refuse_refiner(str(folder), content)
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
    checkpoint = Checkpoint(folder, pipeline, PIPELINES[pipeline], parts)
    _check_configs(checkpoint, content, remedy)
    return checkpoint


def base_pipeline(class_name: str) -> str:
    """The pipeline whose parts a pipeline's are; itself if it is no other use of one.

    Example:
        >>> base_pipeline("StableDiffusionXLImg2ImgPipeline"), base_pipeline("FluxPipeline")
        ('StableDiffusionXLPipeline', 'FluxPipeline')
    """
    return SAME_PARTS.get(class_name, class_name)


def refuse_refiner(subject: str, index: Mapping[str, Any]) -> None:
    """SDXL's refiner has the base's pipeline class for pictures, but one text encoder and an aesthetic score in place of sizes.

    Raises:
        InputError: the pipeline's config (`model_index.json`) is a refiner's.
    """
    if index.get("requires_aesthetics_score"):
        raise InputError(f"{subject} is an SDXL refiner, which finishes pictures of the base model; give the base checkpoint")


def _check_configs(checkpoint: Checkpoint, index: Mapping[str, Any], remedy: str) -> None:
    """Refuse what the small files show, before anything large is read."""
    configs = {part.name: read_json(part.folder / "config.json") for part in checkpoint.parts.values() if part.weights}
    wanted = {"model_index.json": excess(index)}
    for name, config in configs.items():
        wanted[f"{name}/config.json"] = excess(config, sum(tensor_count(path) for path in checkpoint.parts[name].weights))
    scheduler = checkpoint.parts.get("scheduler")
    if scheduler is not None:
        wanted["scheduler_config.json"] = excess(read_json(scheduler.folder / "scheduler_config.json"))
    for file, problem in wanted.items():
        if problem:
            raise InputError(f"{checkpoint.folder}: {file} can't be right: {problem}; {remedy}")
    for tokenizer in (part for part in checkpoint.parts.values() if part.name.startswith("tokenizer")):
        for path in sorted(tokenizer.folder.glob("*.*")):
            if path.suffix in (".json", ".txt") and path.is_file() and path.stat().st_size > MOST_VOCABULARY_BYTES:
                raise InputError(f"{path} has {path.stat().st_size / 1e6:.0f} MB; a vocabulary has a few: {remedy}")
    if checkpoint.role == "TextToImage":
        taken, latent = configs["unet"].get("in_channels", 4), configs["vae"].get("latent_channels", 4)
        if taken != latent:
            raise InputError(f"{checkpoint.folder} {other_channels(taken, latent)}")


def other_channels(taken: Any, latent: Any) -> str:
    """Why a text-to-image network with other input channels isn't read, as the end of a message."""
    known = {9: "it is an inpainting checkpoint, which sees a mask and the masked picture beside the noise", 8: "it edits by instruction",
             5: "it sees a depth map beside the noise", 7: "it enlarges a picture"}  # fmt: skip
    why = known.get(taken, "it is of another role")
    return f"takes {taken} input channels where text-to-image takes {latent}: {why}; give the base checkpoint"


def _open_single(folder: Path, *, variant: str | None, half: bool, remedy: str) -> Checkpoint:
    """A folder that is one model: only an AutoencoderKL has a role."""
    class_name = str(read_json(folder / "config.json").get("_class_name"))
    if class_name != "AutoencoderKL":
        raise InputError(f"{folder} holds one {class_name}; alone, calotype reads AutoencoderKL folders only: give the pipeline's folder")
    part, problems = _open_part("vae", class_name, folder, variant=variant, half=half)
    _raise_problems(folder, problems, remedy)
    _check_variant(folder, {"vae": part}, variant)
    checkpoint = Checkpoint(folder, class_name, "Autoencoder", {"vae": part})
    _check_configs(checkpoint, {}, remedy)
    return checkpoint


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
        return Part(name, class_name, folder, (folder / ROUNDED,), INT8), problems + [p for p in [damage(folder / ROUNDED)] if p]
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
        problems = [problem for path in files if (problem := damage(path))]
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
        shards = read_json(index).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(map(_is_file_name, names)):
            raise InputError(f"{folder.name}/{index.name} doesn't list the weight files beside it; fetch the checkpoint again")
        return tuple(folder / name for name in sorted(set(names)))
    single = folder / _file_name(stem, variant)
    # A link in the hub's cache whose target is gone still says which file was meant.
    return (single,) if single.is_file() or single.is_symlink() else None


def _is_file_name(name: object) -> bool:
    """Whether this names a file of the folder itself; with folders in it, it would lead out of the checkpoint."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name and "\\" not in name
