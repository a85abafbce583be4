"""`load`: a name, a folder or a pipeline object to a model with a role."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calotype.backbones.building import refuse_larger
from calotype.backbones.components import Components
from calotype.backbones.folder import INT8, SMALL_FILES, Checkpoint, Part
from calotype.backbones.headers import read_json
from calotype.backbones.hub import Located, locate
from calotype.backbones.layouts import known_pipelines, pipeline_layout, resolve
from calotype.backbones.placement import Placement, check_torchvision, place, settle
from calotype.backbones.quantized import load_quantized
from calotype.backbones.source import CheckpointSource
from calotype.errors import InputError, one_line
from calotype.imaging.boundary import refusing

logger = logging.getLogger(__name__)

REMEDY = "fetch or save the checkpoint again"


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
            object of a class in `calotype.backbones.layouts` or of one with the same parts (image-to-image, inpainting without further
            channels), which stays as it is.
        device: "auto" (CUDA, else MPS, else CPU), or a torch device.
        dtype: "auto" (float16 on a GPU, float32 on the CPU and for embedded models), "float32", "float16", "bfloat16". The autoencoder
            runs in float32 where its config says that float16 overflows.
        variant: variant of the weight files, such as "fp16"; None takes what fits.
        revision: branch, tag or commit of a hub id.
        offload: on a GPU, keep "model" (whole networks) or "sequential" (single layers) in main memory until they are needed.
        max_rows: rows that the denoising network evaluates at once; None takes all rows of all branches.
        decode_chunk_size: pictures or frames that are decoded at once; None takes 8 frames at 576x1024, more of smaller ones.

    Returns:
        A model of the role that the checkpoint's layout says (`calotype.backbones.layouts`), a `calotype.backbones.components.Adapter`.

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
    modules = _load_parts(checkpoint, placement)
    settle([modules[part] for part in checkpoint.layout.parts if isinstance(modules.get(part), nn.Module)], placement)
    scheduler = checkpoint.parts.get("scheduler")
    components = Components(
        source=CheckpointSource(located.name, checkpoint.folder, located.revision, located.licence, checkpoint.weights, located.embedded),
        modules=modules,
        device=placement.device,
        index=checkpoint.index,
        scheduler=_small_file(checkpoint, "scheduler"),
        scheduler_class=scheduler.class_name if scheduler is not None else "",
        image_processor=_small_file(checkpoint, "feature_extractor"),
        max_rows=options["max_rows"],
        decode_chunk_size=options["decode_chunk_size"],
    )
    return resolve(checkpoint.layout.adapter).from_components(components)


def _from_pipeline(pipeline: Any, options: Mapping[str, int | None]) -> Any:
    """Borrow a diffusers pipeline's networks. A tokenizer has a state that its calls change, so its copy is taken."""
    layout = next((layout for base in type(pipeline).__mro__ if (layout := pipeline_layout(base.__name__)) is not None), None)
    if layout is None:
        raise InputError(
            f"a {type(pipeline).__name__} was given; load takes a name, a folder, or an object of the classes {known_pipelines()}"
        )
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    networks = [name for name in layout.parts if isinstance(parts.get(name), nn.Module)]
    tokenizers = [name for name in parts if name.startswith("tokenizer")]
    config = dict(pipeline.config)
    problem = layout.problem(config, {})
    if problem:
        raise InputError(f"the {type(pipeline).__name__} object {problem}")
    modules = {name: parts[name] for name in networks} | {name: copy.deepcopy(parts[name]) for name in tokenizers}
    with refusing(f"the {type(pipeline).__name__}'s tokenizers", "load it anew"):
        _fit_tokenizers(modules)
    components = Components(
        source=CheckpointSource(str(config.get("_name_or_path") or layout.class_name), None, None, "as its source says"),
        modules=modules,
        device=torch.device(pipeline._execution_device),
        index=config,
        scheduler=_stated(pipeline.scheduler.config),
        scheduler_class=type(pipeline.scheduler).__name__,
        image_processor=getattr(parts.get("feature_extractor"), "__dict__", {}),
        max_rows=options["max_rows"],
        decode_chunk_size=options["decode_chunk_size"],
    )
    return resolve(layout.adapter).from_components(components)


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's config without the values that are only that class's defaults, which is what its file says."""
    defaults = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in defaults}


def _small_file(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What the file of a part without weights says; nothing where the part isn't there."""
    part = checkpoint.parts.get(name)
    return read_json(part.folder / SMALL_FILES[name]) if part is not None else {}


def _load_parts(checkpoint: Checkpoint, placement: Placement) -> dict[str, Any]:
    import transformers

    modules: dict[str, Any] = {}
    with quiet():
        for name, part in checkpoint.parts.items():
            with refusing(f"{part.folder} as a {part.class_name}", REMEDY):
                if name.startswith("tokenizer"):
                    modules[name] = transformers.CLIPTokenizer.from_pretrained(str(part.folder), local_files_only=True)
                elif part.network is not None and part.network.loader:
                    modules |= resolve(part.network.loader)(part, checkpoint.index, placement.dtype)
                elif part.network is not None and part.variant == INT8:
                    modules[name] = load_rounded_network(part).to(placement.dtype).eval().requires_grad_(False)
                elif part.network is not None:
                    modules[name] = _load_network(resolve(part.network.target), part, placement)
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
        tokenizer.pad(tokenizer([""]), padding="max_length", max_length=tokenizer.model_max_length)
        if len(tokenizer) > config.vocab_size:
            raise InputError(f"{name} has {len(tokenizer)} tokens and its text encoder knows {config.vocab_size}; {REMEDY}")


def _load_network(network: Any, part: Part, placement: Placement) -> nn.Module:
    """One network from its safetensors files; every one of its tensors must be there."""
    dtype = torch.float32 if placement.dtype == torch.float16 and _overflows(network, part.folder) else placement.dtype
    refuse_larger(part.folder, part.weights, lambda: _unloaded(network, part.folder))
    argument = "torch_dtype" if _is_diffusers(network) else "dtype"
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


def _overflows(network: Any, folder: Path) -> bool:
    """Whether the config of an autoencoder, or its class's default, says that float16 overflows in it."""
    parameter = inspect.signature(network.__init__).parameters.get("force_upcast")
    return parameter is not None and bool(read_json(folder / "config.json").get("force_upcast", parameter.default))


def load_rounded_network(part: Part) -> nn.Module:
    """A network that is stored in 8 bits, in float32.

    Raises:
        InputError: config and weights don't belong together.
    """
    if part.network is None:
        raise InputError(f"{part.folder} has no weights; {REMEDY}")
    network = resolve(part.network.target)
    refuse_larger(part.folder, part.weights, lambda: _unloaded(network, part.folder))
    made = _unloaded(network, part.folder)
    try:
        made.load_state_dict(load_quantized(part.weights[0]))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{part.folder}: config.json and weights don't belong together ({reason}); fetch the checkpoint again") from error
    return made


def _is_diffusers(network: Any) -> bool:
    """Whether a class keeps to diffusers' way of configs and weight files, and not to transformers'."""
    from diffusers import ConfigMixin

    return issubclass(network, ConfigMixin)


def _unloaded(network: Any, folder: Path) -> nn.Module:
    """The network of a folder with new weights."""
    made: nn.Module
    if _is_diffusers(network):
        made = network.from_config(read_json(folder / "config.json"))
    else:
        made = network(network.config_class.from_pretrained(str(folder), local_files_only=True))
    return made


@contextmanager
def quiet() -> Iterator[None]:
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
