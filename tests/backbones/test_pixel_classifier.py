"""The few-shot classifier: it learns from a few pixels, votes by majority, and sees maps of several resolutions as if all were one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from calotype.backbones.pixel_classifier import PixelClassifier, fit_pixel_classifier, pixel_centres, pixel_vectors, without_specks
from calotype.errors import InputError, ShapeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_classifier(channels: int, members: int) -> PixelClassifier:
    torch.manual_seed(0)
    made: PixelClassifier = PixelClassifier(feature_channels=channels, num_members=members, widths=(16, 8))
    made.mean.copy_(normal(channels))
    made.deviation.copy_(normal(channels, seed=1).abs() + 0.5)
    for number in range(members):
        made(normal(500, channels, seed=number) * 3, number)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (12, 20)])
def test_vectors_are_the_resized_maps(size: tuple[int, int]) -> None:
    maps = [normal(2, 3, 4, 4), normal(2, 2, 16, 16, seed=1)]
    resized = torch.cat([functional.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in maps], 1)
    found = pixel_vectors(maps, pixel_centres(*size).expand(2, -1, -1))
    torch.testing.assert_close(found, resized.flatten(2).transpose(1, 2))


def test_a_picture_is_classified_as_its_pixels_are() -> None:
    classifier, maps = random_classifier(6, 3), [normal(2, 3, 4, 4), normal(2, 2, 16, 16, seed=1), normal(2, 1, 32, 32, seed=2)]
    vectors = pixel_vectors(maps, pixel_centres(16, 16).expand(2, -1, -1)).flatten(0, 1)
    chances = torch.stack([classifier(vectors, member).softmax(-1) for member in range(3)])
    votes = functional.one_hot(chances.argmax(-1), 3).sum(0)
    expected = (votes + 0.5 * chances.mean(0)).argmax(-1).view(2, 16, 16)
    found = classifier.classes(maps, (16, 16))
    assert len(expected.unique()) > 1
    assert (found == expected).float().mean() > 0.995
    assert bool((votes.gather(1, found.view(-1, 1))[:, 0] == votes.amax(1)).float().mean() > 0.995)


def test_it_learns_what_one_channel_does_not_show() -> None:
    vectors = normal(3000, 4)
    classes = (vectors[:, 0] * vectors[:, 1] > 0).long() + 1
    classifier = fit_pixel_classifier(vectors[:2000], classes[:2000], members=3, steps=150)
    votes = torch.stack([classifier(vectors[2000:], member).argmax(-1) for member in range(3)]).mode(0).values
    assert (votes == classes[2000:]).float().mean() > 0.9


def test_it_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone() -> None:
    vectors, classes = normal(50, 3), torch.arange(50) % 3
    before = torch.random.get_rng_state()
    first, again, other = (fit_pixel_classifier(vectors, classes, members=2, steps=3, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first(vectors, 1), again(vectors, 1))
    assert not torch.equal(first(vectors, 1), other(vectors, 1))
    assert not torch.equal(first(vectors, 0), first(vectors, 1))


def test_specks_take_the_class_around_them_and_large_regions_stay() -> None:
    classes = torch.zeros(40, 40, dtype=torch.long)
    classes[:20], classes[30:, 10:] = 1, 2
    noisy = classes.clone()
    noisy[5, 5:8], noisy[25, 3], noisy[35, 30] = 2, 1, 0
    assert torch.equal(without_specks(noisy), classes)
    assert torch.equal(without_specks(classes), classes)
    scattered = torch.arange(16).view(4, 4) % 2
    assert torch.equal(without_specks(scattered, smallest=0.5), scattered)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="6 channels in all were given; the classifier learnt from 5"):
        random_classifier(5, 1).classes([normal(1, 6, 4, 4)], (4, 4))
    with pytest.raises(InputError, match="0 to 2 are expected"):
        fit_pixel_classifier(normal(4, 2), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(InputError, match="with a class each"):
        fit_pixel_classifier(normal(4, 2), torch.tensor([0, 1]))
