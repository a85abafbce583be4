"""What each kind of checkpoint folder holds, declared once: one `Layout` for each pipeline class, and the adapter that runs it.

An adapter's file imports torch. Layouts stand here, where looking for a checkpoint, downloading one and `calotype doctor` read them without
torch, and name adapters and networks by import strings. A new pipeline is a new adapter and one layout more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Network:
    """A class of networks that a part of a checkpoint may be of."""

    target: str
    """Import string of the class, such as "diffusers:AutoencoderKL"."""
    stem: str
    """Of the weight files' names."""
    alias: str = ""
    """The class's name in the checkpoint, where that is another one."""
    loader: str = ""
    """Import string of what loads it in place of the library's own loader: takes the `Part`, the content of model_index.json and the
    precision, gives modules by name."""

    @property
    def class_name(self) -> str:
        """As the checkpoint's files have it."""
        return self.alias or self.target.partition(":")[2]


def _no_problem(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One kind of checkpoint folder."""

    class_name: str
    """The pipeline's class in model_index.json; of a `single` one, the network's class in config.json."""
    role: str
    """What its adapter is for: the name that methods ask for and that the adapter says as `role`."""
    adapter: str
    """Import string of the class whose `from_components` makes the model."""
    parts: Mapping[str, tuple[Network, ...]]
    """Each part's possible classes, in the order of their use. Scheduler, tokenizers and feature extractor have no weights and so none."""
    optional: tuple[str, ...] = ()
    """Parts that a folder may lack. The pipeline class need not know them: they are found by their folders too."""
    also: tuple[str, ...] = ()
    """Pipeline classes that are another way to use the same networks; their folders and objects are read as this one's."""
    single: bool = False
    """The folder is its only part: it has a config.json and no model_index.json."""
    problem: Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], str] = _no_problem
    """Why a checkpoint can't be used, by model_index.json and the configs of its networks (none where they aren't known yet), as the end of
    a message that begins with its name; "" if nothing speaks against it."""


def known_roles() -> set[str]:
    """The roles that checkpoints can have."""
    return {layout.role for layout in LAYOUTS}


def resolve(target: str) -> Any:
    """What an import string, `module:name`, stands for."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def other_channels(taken: Any, latent: Any) -> str:
    """Why a text-to-image network with other input channels isn't read, as the end of a message."""
    known = {9: "it is an inpainting checkpoint, which sees a mask and the masked picture beside the noise", 8: "it edits by instruction",
             5: "it sees a depth map beside the noise", 7: "it enlarges a picture"}  # fmt: skip
    why = known.get(taken, "it is of another role")
    return f"takes {taken} input channels where text-to-image takes {latent}: {why}; give the base checkpoint"


def _channels_problem(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str:
    if not configs:
        return ""
    taken, latent = configs["unet"].get("in_channels", 4), configs["vae"].get("latent_channels", 4)
    return other_channels(taken, latent) if taken != latent else ""


def _sdxl_problem(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str:
    """SDXL's refiner has the base's pipeline class for pictures, but one text encoder and an aesthetic score in place of sizes."""
    if index.get("requires_aesthetics_score"):
        return "is an SDXL refiner, which finishes pictures of the base model; give the base checkpoint"
    return _channels_problem(index, configs)


_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"
_UNET = (Network("diffusers:UNet2DConditionModel", _DIFFUSERS),)
_VAE = (Network("diffusers:AutoencoderKL", _DIFFUSERS),)
_VQ = (Network("diffusers:VQModel", _DIFFUSERS),)
_CLIP_TEXT = (Network("transformers:CLIPTextModel", _TRANSFORMERS),)
_CLIP_VISION = (Network("transformers:CLIPVisionModelWithProjection", _TRANSFORMERS),)
_DINOV2 = (Network("transformers:Dinov2Model", _TRANSFORMERS),)
_SEGMENTERS = tuple(
    Network(f"monai.networks.nets:{name}", _TRANSFORMERS, loader="calotype.backbones.segmenter_network:load_segmenter_network")
    for name in ("DynUNet", "AttentionUnet", "SegResNet", "UNETR", "BasicUNet")
)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        class_name="StableDiffusionPipeline",
        role="TextToImage",
        adapter="calotype.backbones.text_to_image:StableDiffusion",
        parts={"text_encoder": _CLIP_TEXT, "unet": _UNET, "vae": _VAE, "tokenizer": (), "scheduler": ()},
        also=("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
        problem=_channels_problem,
    ),
    Layout(
        class_name="StableDiffusionXLPipeline",
        role="TextToImage",
        adapter="calotype.backbones.text_to_image:StableDiffusionXL",
        parts={
            "text_encoder": _CLIP_TEXT,
            "text_encoder_2": (Network("transformers:CLIPTextModelWithProjection", _TRANSFORMERS),),
            "unet": _UNET,
            "vae": _VAE,
            "tokenizer": (),
            "tokenizer_2": (),
            "scheduler": (),
        },
        also=("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
        problem=_sdxl_problem,
    ),
    Layout(
        class_name="StableVideoDiffusionPipeline",
        role="ImageToVideo",
        adapter="calotype.backbones.image_to_video:StableVideoDiffusion",
        parts={
            "text_encoder": _CLIP_TEXT,
            "image_encoder": _CLIP_VISION,
            "unet": (Network("diffusers:UNetSpatioTemporalConditionModel", _DIFFUSERS),),
            "vae": (*_VAE, Network("diffusers:AutoencoderKLTemporalDecoder", _DIFFUSERS)),
            "tokenizer": (),
            "feature_extractor": (),
            "scheduler": (),
        },
        optional=("text_encoder", "tokenizer"),
    ),
    Layout(
        class_name="BlipDiffusionPipeline",
        role="SubjectToImage",
        adapter="calotype.backbones.subject:BlipDiffusion",
        parts={
            "qformer": (
                Network(
                    "calotype.backbones.blip_qformer:BlipQFormer", _TRANSFORMERS, alias="Blip2QFormerModel",
                    loader="calotype.backbones.blip_qformer:load_qformer",
                ),
            ),
            "text_encoder": (Network("transformers:CLIPTextModel", _TRANSFORMERS, alias="ContextCLIPTextModel"), *_CLIP_TEXT),
            "unet": _UNET,
            "vae": _VAE,
            "tokenizer": (),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="ToySubjectPipeline",
        role="SubjectToImage",
        adapter="calotype.backbones.subject:ToySubject",
        parts={
            "subject_encoder": (Network("calotype.backbones.subject_encoder:SubjectEncoder", _DIFFUSERS),),
            "text_encoder": _CLIP_TEXT,
            "unet": _UNET,
            "vae": _VAE,
            "tokenizer": (),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="I2VGenXLPipeline",
        role="ImageToVideo",
        adapter="calotype.backbones.i2vgen_xl:I2VGenXL",
        parts={
            "text_encoder": _CLIP_TEXT,
            "image_encoder": _CLIP_VISION,
            "unet": (Network("diffusers:I2VGenXLUNet", _DIFFUSERS),),
            "vae": _VAE,
            "tokenizer": (),
            "feature_extractor": (),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="StableDiffusionInstructPix2PixPipeline",
        role="PictureEditor",
        adapter="calotype.backbones.instruct_pix2pix:InstructPix2Pix",
        parts={"text_encoder": _CLIP_TEXT, "unet": _UNET, "vae": _VAE, "tokenizer": (), "scheduler": ()},
    ),
    Layout(
        class_name="VolumePriorPipeline",
        role="VolumePrior",
        adapter="calotype.backbones.volume_prior:MonaiVolumePrior",
        parts={
            "unet": (
                Network(
                    "calotype.backbones.volume_network:VolumeNetwork", _TRANSFORMERS, alias="DiffusionModelUNet",
                    loader="calotype.backbones.volume_network:load_volume_network",
                ),
            ),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="SegmenterPipeline",
        role="Segmenter",
        adapter="calotype.backbones.segmenter:FeedForwardSegmenter",
        parts={"network": _SEGMENTERS},
    ),
    Layout(
        class_name="LayoutStylePipeline",
        role="LayoutStyleToImage",
        adapter="calotype.backbones.layout_style:LayoutStyleDiffusion",
        parts={
            "conditioner": (Network("calotype.backbones.style_network:StyleConditioner", _DIFFUSERS),),
            "unet": (Network("diffusers:UNet2DModel", _DIFFUSERS),),
            "vae": (*_VAE, *_VQ),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="DiffusionSegmenterPipeline",
        role="Segmenter",
        adapter="calotype.backbones.diffusion_segmenter:DiffusionSegmenter",
        parts={
            "network": (Network("calotype.backbones.diffusion_segmenter_network:DiffusionSegmentationNetwork", _DIFFUSERS),),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="ComposableVideoPipeline",
        role="ComposableVideo",
        adapter="calotype.backbones.composable_video:ComposableVideo",
        parts={
            "control_encoder": (
                Network("calotype.backbones.control_features:ControlEncoder", _DIFFUSERS),
                *_DINOV2,
            ),
            "transformer": (
                Network("calotype.backbones.control_video_network:ControlledVideoTransformer", _DIFFUSERS),
                Network("calotype.backbones.official_cage_network:OfficialCageTransformer", _DIFFUSERS),
            ),
            "vae": (*_VAE, *_VQ),
            "scheduler": (),
        },
    ),
    Layout(
        class_name="LandscapeGeneratorPipeline",
        role="LandscapeGenerator",
        adapter="calotype.backbones.landscape_generator:LandscapeGenerator",
        parts={
            "encoder": (
                Network("calotype.backbones.feature_style_encoder:FeatureStyleEncoder", _DIFFUSERS),
                Network("calotype.backbones.feature_style_encoder:OfficialFeatureStyleEncoder", _DIFFUSERS),
            ),
            "generator": (Network("calotype.backbones.stylegan2:StyleGAN2Generator", _DIFFUSERS),),
            "pixel_classifier": (Network("calotype.backbones.pixel_classifier:PixelClassifier", _DIFFUSERS),),
            "motion": (Network("calotype.backbones.motion_network:MotionNetwork", _DIFFUSERS),),
        },
        optional=("pixel_classifier", "motion"),
    ),
    Layout(
        class_name="ContentMotionPipeline",
        role="ContentMotionVideo",
        adapter="calotype.backbones.content_motion:ContentMotionDiffusion",
        parts={
            "autoencoder": (Network("calotype.backbones.content_motion_network:ContentMotionAutoencoder", _DIFFUSERS),),
            "motion_network": (Network("calotype.backbones.content_motion_network:MotionDiT", _DIFFUSERS),),
            "text_encoder": _CLIP_TEXT,
            "unet": _UNET,
            "vae": _VAE,
            "tokenizer": (),
            "scheduler": (),
        },
        problem=_channels_problem,
    ),
    Layout(
        class_name="DescriptorPipeline",
        role="DescriptorModel",
        adapter="calotype.backbones.descriptors:DiffusionDescriptors",
        parts={
            "text_encoder": _CLIP_TEXT,
            "unet": _UNET,
            "vae": _VAE,
            "vit": _DINOV2,
            "mixer": (Network("calotype.backbones.feature_mixer:FeatureMixer", _DIFFUSERS),),
            "tokenizer": (),
            "scheduler": (),
        },
        optional=("mixer",),
        problem=_channels_problem,
    ),
    Layout(
        class_name="Dinov2Model",
        role="VisionTransformer",
        adapter="calotype.backbones.vision_transformer:Dinov2Encoder",
        parts={"vit": _DINOV2},
        single=True,
    ),
    Layout(
        class_name="AutoencoderKL",
        role="Autoencoder",
        adapter="calotype.backbones.autoencoder:Autoencoder",
        parts={"vae": _VAE},
        single=True,
    ),
    Layout(
        class_name="VQModel",
        role="Autoencoder",
        adapter="calotype.backbones.autoencoder:Autoencoder",
        parts={"vae": _VQ},
        single=True,
    ),
)  # fmt: skip

_PIPELINES = {name: layout for layout in LAYOUTS if not layout.single for name in (layout.class_name, *layout.also)}
_SINGLES = {layout.class_name: layout for layout in LAYOUTS if layout.single}


def pipeline_layout(class_name: str) -> Layout | None:
    """The layout of a pipeline class, or of the one whose parts its are; None of an unknown one.

    Example:
        >>> layout = pipeline_layout("StableDiffusionXLImg2ImgPipeline")
        >>> layout.class_name if layout else None, pipeline_layout("FluxPipeline")
        ('StableDiffusionXLPipeline', None)
    """
    return _PIPELINES.get(class_name)


def single_layout(class_name: str) -> Layout | None:
    """The layout of a folder that is one network of that class; None of an unknown one."""
    return _SINGLES.get(class_name)


def known_pipelines() -> str:
    """The pipeline classes that are read, for messages."""
    return ", ".join([layout.class_name for layout in LAYOUTS if not layout.single] + [name for layout in LAYOUTS for name in layout.also])


def known_singles() -> str:
    """The classes of networks that are read from a folder of their own, for messages."""
    return ", ".join(_SINGLES)
