"""Classes of pixels from a generator's features, learnt from a few annotated pictures: an ensemble of small networks that votes.

The recipe is DatasetGAN's (Zhang et al. 2021, arXiv 2104.06490), which StyleCineGAN (arXiv 2403.14186) takes for its mask: ten networks
of three layers over all feature maps, each brought to one resolution. This is an implementation of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

MOST_MEMBERS = 100
"""Networks of an ensemble."""


def pixel_vectors(
    maps: Sequence[Float[Tensor, "batch channels height width"]], places: Float[Tensor, "batch pixels 2"]
) -> Float[Tensor, "batch pixels numbers"]:
    """All maps' features at places of the picture, one beside the other: what a classifier learns from.

    Args:
        maps: feature maps of the same pictures, of any resolutions.
        places: (across, down) in [-1, 1] from edge to edge of the picture.

    Example:
        >>> pixel_vectors([torch.ones(1, 2, 4, 4), torch.zeros(1, 3, 8, 8)], torch.zeros(1, 6, 2)).shape
        torch.Size([1, 6, 5])
    """
    found = [functional.grid_sample(each, places[:, None], padding_mode="border", align_corners=False)[:, :, 0] for each in maps]
    return torch.cat(found, 1).transpose(1, 2)


def pixel_centres(height: int, width: int) -> Float[Tensor, "pixels 2"]:
    """The middles of a picture's pixels, row by row, as `pixel_vectors` takes them.

    >>> pixel_centres(1, 2).tolist()
    [[-0.5, 0.0], [0.5, 0.0]]
    """
    down, across = ((2 * torch.arange(count) + 1) / count - 1 for count in (height, width))
    return torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).flatten(0, 1)


class PixelClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """An ensemble of networks of three layers.

    Args:
        feature_channels: of all maps together.
        num_classes: classes.
        num_members: networks.
        widths: numbers after the first and the second layer.

    Raises:
        InputError: fewer than one network, or more than 100.

    Example:
        >>> classifier = PixelClassifier(feature_channels=5, num_members=2).eval()
        >>> classifier.classes([torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 8, 8)], (8, 6)).shape
        torch.Size([1, 8, 6])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, feature_channels: int = 1472, num_classes: int = 3, num_members: int = 10, widths: tuple[int, int] = (128, 32)
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= num_members <= MOST_MEMBERS:
            raise InputError(f"an ensemble of {num_members} networks is asked for; 1 to {MOST_MEMBERS} are possible")
        first, second = widths
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(feature_channels, first), nn.ReLU(), nn.BatchNorm1d(first),
                nn.Linear(first, second), nn.ReLU(), nn.BatchNorm1d(second),
                nn.Linear(second, num_classes),
            )
            for _ in range(num_members)
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(feature_channels))
        self.register_buffer("deviation", torch.ones(feature_channels))

    def forward(self, vectors: Float[Tensor, "pixels numbers"], member: int) -> Float[Tensor, "pixels classes"]:
        """One network's logits of pixels; see `pixel_vectors`."""
        logits: Tensor = self.members[member]((vectors - self.mean) / self.deviation)
        return logits

    @torch.no_grad()
    def classes(
        self, maps: Sequence[Float[Tensor, "batch channels height width"]], size: tuple[int, int]
    ) -> Int[Tensor, "batch rows columns"]:
        """The class of each pixel by the majority of the networks; of equally many votes, the larger mean probability's.

        The first layer works on each map before it is enlarged, which gives the same, as both are linear, and takes a tenth of the memory.

        Args:
            maps: feature maps of the same pictures, of any resolutions.
            size: (height, width) of the answer.

        Raises:
            ShapeError: the maps have another number of channels than the classifier learnt from.
        """
        found, known = sum(each.shape[1] for each in maps), self.config.feature_channels
        if found != known:
            raise ShapeError(f"feature maps of {found} channels in all were given; the classifier learnt from {known}")
        votes = torch.zeros(len(maps[0]), self.config.num_classes, *size, device=maps[0].device)
        layered: Any = self.members
        for member in layered:
            first, *others = member
            weight = first.weight / self.deviation
            states = (first.bias - weight @ self.mean)[None, :, None, None]
            for each, part in zip(maps, weight.split([each.shape[1] for each in maps], 1), strict=True):
                each = each.to(part.dtype)
                if each.shape[2] > size[0]:
                    each = functional.interpolate(each, size=size, mode="bilinear", align_corners=False)
                seen = functional.conv2d(each, part[:, :, None, None])
                states = states + functional.interpolate(seen, size=size, mode="bilinear", align_corners=False)
            vectors = states.movedim(1, -1).flatten(0, 2)
            for layer in others:
                vectors = layer(vectors)
            chances = vectors.float().softmax(-1).unflatten(0, (len(votes), *size)).movedim(-1, 1)
            vote = functional.one_hot(chances.argmax(1), self.config.num_classes).movedim(-1, 1)
            votes += vote + chances * (0.5 / len(self.members))
        return votes.argmax(1)


def fit_pixel_classifier(
    vectors: Float[Tensor, "pixels numbers"], classes: Int[Tensor, " pixels"], *, num_classes: int = 3, members: int = 10,
    steps: int = 200, batch_size: int = 1024, learning_rate: float = 2e-3, seed: int = 0,
) -> PixelClassifier:  # fmt: skip
    """A classifier of some annotated pictures' pixels, in seconds. Each network has weights and an order of pixels of its own.

    Args:
        vectors: features of the pixels; see `pixel_vectors`.
        classes: of each pixel, from 0.
        num_classes: classes, whether or not each of them occurs.
        members: networks.
        steps: of each network.
        batch_size: pixels of a step.
        learning_rate: of Adam.
        seed: of weights and orders.

    Raises:
        InputError: no pixels, as many classes as pixels don't fit, or a class that is none.

    Example:
        >>> vectors = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        >>> classifier = fit_pixel_classifier(vectors, (vectors[:, 0] > 0).long(), num_classes=2, members=1, steps=60)
        >>> float(((classifier(vectors, 0)[:, 1] > 0) == (vectors[:, 0] > 0)).float().mean()) > 0.8
        True
    """
    if len(vectors) < 2 or len(vectors) != len(classes):
        raise InputError(
            f"{len(vectors)} pixels with {len(classes)} classes were given; two or more pixels, with a class each, are expected"
        )
    if int(classes.min()) < 0 or int(classes.max()) >= num_classes:
        raise InputError(f"classes from {int(classes.min())} to {int(classes.max())} were given; 0 to {num_classes - 1} are expected")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier: PixelClassifier = PixelClassifier(feature_channels=vectors.shape[1], num_classes=num_classes, num_members=members)
    classifier.to(vectors.device).mean.copy_(vectors.mean(0))
    classifier.deviation.copy_(vectors.std(0).clamp(min=1e-5))
    generator = torch.Generator().manual_seed(seed)
    for number, member in enumerate(classifier.members):
        optimizer = torch.optim.Adam(member.parameters(), lr=learning_rate)
        for _ in range(steps):
            chosen = torch.randint(len(vectors), (batch_size,), generator=generator).to(vectors.device)
            loss = functional.cross_entropy(classifier(vectors[chosen], number), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    fitted: PixelClassifier = classifier.eval().requires_grad_(False)
    return fitted


def without_specks(classes: Int[Tensor, "height width"], *, smallest: float = 0.01) -> Int[Tensor, "height width"]:
    """Connected regions below a share of the picture take the class of the nearest pixel outside of such regions.

    Args:
        classes: of each pixel.
        smallest: share of the picture that a region must have.

    Example:
        >>> classes = torch.zeros(10, 10, dtype=torch.long)
        >>> classes[:5], classes[7, 7] = 1, 2
        >>> without_specks(classes, smallest=0.05)[5:].unique().tolist()
        [0]
    """
    from scipy import ndimage

    values = classes.cpu().numpy()
    small = np.zeros(values.shape, bool)
    for value in np.unique(values):
        regions, _ = ndimage.label(values == value)
        sizes = np.bincount(regions.ravel())
        small |= (values == value) & (sizes < smallest * values.size)[regions]
    if small.all():
        return classes
    nearest = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
    return torch.from_numpy(values[tuple(nearest)]).to(classes)
