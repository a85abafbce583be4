"""CAGE's public weights, with the parts that they know, as a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from calotype.backbones.composable_video import save_parts
from calotype.backbones.control_features import feature_width
from calotype.backbones.official_cage import read_official
from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.files import new_folder
from calotype.methods.cage.sampling import TARGETS
from calotype.methods.cage.training import OWN, CAGETraining

UNCHECKED = (
    "the network follows a description of the public weights and was never run with them: see whether what it makes is right "
    "(the order of queries, keys and values, and the scale of the term for frames, are not in the description)"
)


def convert(
    file: Path, out: Path, *, features: str, autoencoder: str, size: tuple[int, int], feature_layers: int, stride: int,
    events: Events = SILENT,
) -> Path:  # fmt: skip
    """Write the folder.

    Args:
        file: `model.pth` of a `cvg-unibe/cage_*` repository.
        out: the folder, which isn't there yet.
        features: folder of a DINOv2 model.
        autoencoder: folder of a VQModel or an AutoencoderKL.
        size: height and width of the frames.
        feature_layers: last layers of the DINOv2 model.
        stride: every so many frames one was taken in the training.
        events: hears notes.

    Raises:
        InputError: the file or a part can't be used, or they don't fit together.
    """
    if features == OWN:
        raise InputError("the public weights know features of DINOv2; give its folder as features")
    parts = CAGETraining(size=size, autoencoder=autoencoder, features=features, feature_layers=feature_layers, stride=stride, patch=1)
    space, encoder = parts.latents(), parts.encoder()
    network = read_official(file, parts.grid(space.factor))
    wanted = network.config.latent_channels, network.config.feature_width
    found = space.channels, feature_width(encoder, feature_layers)
    if wanted != found:
        raise InputError(
            f"the weights know {wanted[0]} latent channels and {wanted[1]} numbers of a feature; the parts have {found[0]} and {found[1]}: "
            "give others as autoencoder and features, or another number of feature_layers"
        )
    events.note(UNCHECKED)
    with new_folder(out) as making:
        save_parts(
            making, transformer=network, control_encoder=encoder, vae=space.vae, size=size, targets=TARGETS, stride=stride,
            feature_layers=feature_layers,
        )  # fmt: skip
    return out
