"""`load`: a name, a folder or a pipeline object to a model with a role."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calotype.backbones.autoencoder import Autoencoder
from calotype.backbones.base import DiffusionModel
from calotype.backbones.blip_qformer import load_qformer
from calotype.backbones.building import refuse_larger
from calotype.backbones.folder import INT8, SAME_PARTS, Checkpoint, Part, base_pipeline, refuse_refiner
from calotype.backbones.headers import read_json
from calotype.backbones.hub import Located, locate
from calotype.backbones.i2vgen_xl import I2VGenXL
from calotype.backbones.image_to_video import StableVideoDiffusion
from calotype.backbones.instruct_pix2pix import InstructPix2Pix
from calotype.backbones.placement import Placement, check_torchvision, place, settle
from calotype.backbones.source import CheckpointSource
from calotype.backbones.subject import BlipDiffusion, ToySubject
from calotype.backbones.text_to_image import StableDiffusion, StableDiffusionXL
from calotype.backbones.toy_subject import load_network
from calotype.backbones.volume_network import CLASS as VOLUME_NETWORK
from calotype.backbones.volume_network import load_part
from calotype.backbones.volume_prior import MonaiVolumePrior, read_facts
from calotype.errors import InputError, one_line
from calotype.imaging.boundary import refusing

logger = logging.getLogger(__name__)

REMEDY = "fetch or save the checkpoint again"

ADAPTERS: dict[str, type[DiffusionModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableVideoDiffusionPipeline": StableVideoDiffusion,
    "BlipDiffusionPipeline": BlipDiffusion,
    "ToySubjectPipeline": ToySubject,
    "I2VGenXLPipeline": I2VGenXL,
    "StableDiffusionInstructPix2PixPipeline": InstructPix2Pix,
}
ORDER_OF_USE = ("qformer", "subject_encoder", "text_encoder", "text_encoder_2", "image_encoder", "unet", "vae")

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAME_WEIGHTS = {"ContextCLIPTextModel": "CLIPTextModel"}
"""Classes whose weights another class reads; BLIP-Diffusion's encoder of visual rows is `calotype.backbones.context_text`."""


def load(
    name: str | Path | Any,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    variant: str | None = None,
    revision: str | None = None,
    offload: str | None = None,
    max_rows: int | None = None,
    decode_chunk_size: int | None = None,
) -> Any:
    """Load a checkpoint in its role. Never downloads, never reads pickled weights.

    Args:
        name: an embedded model ("toy-i2v"), a folder in the diffusers layout, a hub id that is in the cache
            ("stabilityai/stable-video-diffusion-img2vid-xt"), or a diffusers pipeline
            object of a class in `ADAPTERS` or of one with the same parts (image-to-image, inpainting without further channels), which stays
            as it is.
        device: "auto" (CUDA, else MPS, else CPU), or a torch device.
        dtype: "auto" (float16 on a GPU, float32 on the CPU and for embedded models), "float32", "float16", "bfloat16". The autoencoder
            runs in float32 where its config says that float16 overflows.
        variant: variant of the weight files, such as "fp16"; None takes what fits.
        revision: branch, tag or commit of a hub id.
        offload: on a GPU, keep "model" (whole networks) or "sequential" (single layers) in main memory until they are needed.
        max_rows: rows that the denoising network evaluates at once; None takes all rows of all branches.
        decode_chunk_size: pictures or frames that are decoded at once; None takes 8 frames at 576x1024, more of smaller ones.

    Returns:
        A `TextToImage`, `ImageToVideo`, `PictureEditor`, `VolumePrior` or `Autoencoder` model (`calotype.core.roles`).

    Raises:
        InputError: no such name (near misses are listed), a checkpoint of an unknown kind, or files that can't be read as one.
        MissingError: not, or not completely, on this machine; the message names files, size, licence and the command that gets them.
    """
    options = {"max_rows": max_rows, "decode_chunk_size": decode_chunk_size}
    if not isinstance(name, str | Path):
        if (device, dtype, variant, revision, offload) != ("auto", "auto", None, None, None):
            raise InputError(
                "a pipeline object keeps its own device, precision and weights: call its own .to(...) and leave out the other arguments"
            )
        with refusing(f"the {type(name).__name__} object", "give one that generates on its own"):
            return _from_pipeline(name, options)
    placement = place(device, dtype, offload)
    located = locate(name, variant=variant, revision=revision, half=placement.half)
    if located.embedded:
        placement = place(device, dtype, offload, prefer_float32=True)
    check_torchvision()
    if located.note:
        logger.warning("%s", located.note)
    with refusing(f"the checkpoint {one_line(str(name), 200)}", REMEDY):
        return _load_located(located, placement, options)


def _load_located(located: Located, placement: Placement, options: Mapping[str, int | None]) -> Any:
    checkpoint = located.checkpoint
    source = CheckpointSource(located.name, checkpoint.folder, located.revision, located.licence, checkpoint.weights, located.embedded)
    modules = _load_parts(checkpoint, placement)
    settle([modules[part] for part in ORDER_OF_USE if part in modules], placement)
    if checkpoint.role == "Autoencoder":
        return Autoencoder(source, modules["vae"], placement.device, decode_chunk_size=options["decode_chunk_size"])
    scheduler = checkpoint.parts["scheduler"]
    if checkpoint.role == "VolumePrior":
        return MonaiVolumePrior(
            source,
            modules,
            scheduler=read_json(scheduler.folder / "scheduler_config.json"),
            scheduler_class=scheduler.class_name,
            device=placement.device,
            facts=read_facts(checkpoint.folder),
            max_rows=options["max_rows"],
        )
    extra = _extra(checkpoint.pipeline, read_json(checkpoint.folder / "model_index.json"), _image_processor(checkpoint))
    return ADAPTERS[checkpoint.pipeline](
        source,
        modules,
        scheduler=read_json(scheduler.folder / "scheduler_config.json"),
        scheduler_class=scheduler.class_name,
        device=placement.device,
        **options,
        **extra,
    )


def _from_pipeline(pipeline: Any, options: Mapping[str, int | None]) -> DiffusionModel:
    """Borrow a diffusers pipeline's networks."""
    kinds = [base.__name__ for base in type(pipeline).__mro__]
    kind = next((base_pipeline(base) for base in kinds if base_pipeline(base) in ADAPTERS), None)
    if kind is None:
        known = ", ".join((*ADAPTERS, *SAME_PARTS))
        raise InputError(f"a {type(pipeline).__name__} was given; load takes a name, a folder, or an object of the classes {known}")
    components = {name: part for name, part in pipeline.components.items() if part is not None}
    needed = [name for name in ORDER_OF_USE if name in components]
    tokenizers = [name for name in components if name.startswith("tokenizer")]
    processor = getattr(components.get("feature_extractor"), "__dict__", {})
    config = dict(pipeline.config)
    refuse_refiner(f"the {type(pipeline).__name__} object", config)
    source = CheckpointSource(str(config.get("_name_or_path") or kind), None, None, "as its source says")
    return ADAPTERS[kind](
        source,
        {name: components[name] for name in needed + tokenizers},
        scheduler=_stated(pipeline.scheduler.config),
        scheduler_class=type(pipeline.scheduler).__name__,
        device=torch.device(pipeline._execution_device),
        **options,
        **_extra(kind, config, processor),
    )


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's config without the values that are only that class's defaults, which is what its file says."""
    defaults = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in defaults}


def _extra(pipeline: str, index: Mapping[str, Any], image_processor: Mapping[str, Any]) -> dict[str, Any]:
    """What one adapter takes beside the common arguments."""
    if pipeline == "StableDiffusionXLPipeline":
        return {"force_zeros_for_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", True))}
    if pipeline == "BlipDiffusionPipeline":
        return {"begin": int(index.get("ctx_begin_pos", 2)), "mean": index.get("mean") or CLIP_MEAN, "std": index.get("std") or CLIP_STD}
    return {"image_processor": image_processor} if pipeline in ("StableVideoDiffusionPipeline", "I2VGenXLPipeline") else {}


def _image_processor(checkpoint: Checkpoint) -> dict[str, Any]:
    part = checkpoint.parts.get("feature_extractor")
    return read_json(part.folder / "preprocessor_config.json") if part is not None else {}


def _load_parts(checkpoint: Checkpoint, placement: Placement) -> dict[str, Any]:
    import diffusers
    import transformers

    modules: dict[str, Any] = {}
    with _quiet():
        for name, part in checkpoint.parts.items():
            with refusing(f"{part.folder} as a {part.class_name}", REMEDY):
                if name.startswith("tokenizer"):
                    modules[name] = transformers.CLIPTokenizer.from_pretrained(str(part.folder), local_files_only=True)
                elif part.class_name == VOLUME_NETWORK:
                    patch_size = read_facts(checkpoint.folder).get("patch_size", 1)
                    modules[name] = load_part(part, patch_size).to(placement.dtype).eval().requires_grad_(False)
                elif part.variant == INT8:
                    modules[name] = load_network(name, part.folder).to(placement.dtype).eval().requires_grad_(False)
                elif name == "qformer":
                    modules |= load_qformer(part, placement.dtype)
                elif part.weights:
                    library = diffusers if hasattr(diffusers, part.class_name) else transformers
                    modules[name] = _load_network(getattr(library, SAME_WEIGHTS.get(part.class_name, part.class_name)), part, placement)
        _fit_tokenizers(modules)
    return modules


def _fit_tokenizers(modules: Mapping[str, Any]) -> None:
    """Let no tokenizer give more tokens than its encoder has positions; a config that names no length means 10^30 of them."""
    for name in [name for name in modules if name.startswith("tokenizer")]:
        tokenizer, config = modules[name], modules[name.replace("tokenizer", "text_encoder")].config
        length = tokenizer.model_max_length
        if not isinstance(length, int | float) or length < 3:
            raise InputError(f"{name}/tokenizer_config.json says model_max_length {length!r}; it must be 3 or more: {REMEDY}")
        tokenizer.model_max_length = int(min(length, config.max_position_embeddings))
        # Tried once: a tokenizer can be whole and still lack what it pads with.
        tokenizer([""], padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
        if len(tokenizer) > config.vocab_size:
            raise InputError(f"{name} has {len(tokenizer)} tokens and its text encoder knows {config.vocab_size}; {REMEDY}")


def _load_network(network: Any, part: Part, placement: Placement) -> nn.Module:
    """One network from its safetensors files; every one of its tensors must be there."""
    dtype = placement.dtype
    if (
        part.class_name.startswith("Autoencoder")
        and dtype == torch.float16
        and read_json(part.folder / "config.json").get("force_upcast", True)
    ):
        dtype = torch.float32
    refuse_larger(part.folder, part.weights, lambda: _unloaded(network, part.folder))
    argument = "torch_dtype" if network.__module__.startswith("diffusers") else "dtype"
    module, report = network.from_pretrained(
        str(part.folder), variant=part.variant, use_safetensors=True, local_files_only=True, output_loading_info=True, **{argument: dtype}
    )
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind, ()))
        if keys:
            raise InputError(
                f"{part.folder}: {len(keys)} tensors are {kind.split('_')[0]} in its weight files, such as {keys[0]}; "
                "config.json and weights don't belong together: fetch or save the checkpoint again"
            )
    result: nn.Module = module.eval().requires_grad_(False)
    return result


def _unloaded(network: Any, folder: Path) -> nn.Module:
    """The network of a folder with new weights."""
    made: nn.Module
    if network.__module__.startswith("diffusers"):
        made = network.from_config(read_json(folder / "config.json"))
    else:
        made = network(network.config_class.from_pretrained(str(folder), local_files_only=True))
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and load reports off the terminal: the library tells its listeners, and nobody else."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    bars = [library.is_progress_bar_enabled() for library in libraries]
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        for library, bar, level in zip(libraries, bars, levels, strict=True):
            if bar:
                library.enable_progress_bar()
            library.set_verbosity(level)
