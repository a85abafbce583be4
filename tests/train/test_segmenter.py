"""Segmenters fitted in memory: they learn, the same arguments give the same weights, masks follow their pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from calotype.backbones.segmenter_network import make_network, network_config
from calotype.errors import InputError
from calotype.metrics.segmentation import iou
from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import Augmentation, SegmentationLoss, jitter_colour
from calotype.train.segmenter import fit_segmenter, predict

SIDE = 16


def discs(count: int, seed: int = 0, *, channels: int = 1, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures of bright discs, and where these are."""
    rng = torch.Generator().manual_seed(seed)
    centre, radius = (
        side * (0.3 + 0.4 * torch.rand((count, 2, 1, 1), generator=rng)),
        side * (0.15 + 0.1 * torch.rand((count, 1, 1), generator=rng)),
    )
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2
    images = 0.3 + 0.3 * masks[:, None] + 0.1 * torch.randn((count, channels, side, side), generator=rng)
    return images.clamp(0, 1), masks.long()


def network(seed: int = 0, channels: int = 1, classes: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_network(network_config("unet", channels=channels, classes=classes, window=(SIDE, SIDE), widths=(4, 8, 8)))


def test_a_network_learns_discs() -> None:
    images, masks = discs(32)
    fitted = fit_segmenter(network(), images, masks, steps=60, seed=0, batch_size=8, learning_rate=5e-3)
    assert not fitted.training
    fresh, truth = discs(16, seed=1)
    before, after = (iou(predict(one, fresh).argmax(1), truth).mean() for one in (network(), fitted))
    assert after > 0.75
    assert after > before + 0.3


def test_the_same_arguments_give_the_same_weights_and_leave_the_generator_alone() -> None:
    images, masks = discs(8)
    state = torch.random.get_rng_state()
    first, second, other = (
        fit_segmenter(network(), images, masks, steps=3, seed=seed, batch_size=4, augment=Augmentation(colour=0.5)).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_pictures_and_masks_are_changed_alike_and_all_eight_positions_come() -> None:
    corner = torch.zeros(1, 1, 4, 4)
    corner[0, 0, 0, 1] = 1
    images, masks = corner.expand(200, -1, -1, -1), corner[0].long().expand(200, -1, -1)
    changed, truth = Augmentation()(images, masks, BatchRng(0, 0, range(200), 200))
    assert torch.equal(changed[:, 0].long(), truth)
    assert len({tuple(row.flatten().tolist()) for row in truth}) == 8
    turned, _ = Augmentation(flips=False)(images, masks, BatchRng(0, 0, range(200), 200))
    assert len({tuple(row.flatten().tolist()) for row in turned}) == 4
    still, _ = Augmentation(flips=False, turns=False)(images, masks, BatchRng(0, 0, range(200), 200))
    assert torch.equal(still, images)


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    images, masks = discs(4, channels=3)
    augment = Augmentation(colour=1.0)
    whole, _ = augment(images, masks, BatchRng(0, 3, range(4), 4))
    part, _ = augment(images[2:], masks[2:], BatchRng(0, 3, [2, 3], 4))
    assert torch.allclose(whole[2:], part, atol=1e-6)


def test_colours_change_all_hues_and_keep_what_is_grey() -> None:
    red = torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1, 1).expand(300, -1, 4, 4)
    changed = jitter_colour(red, 1.0, BatchRng(0, 0, range(300), 300))
    assert changed.min() >= 0
    assert changed.max() <= 1
    strongest = changed.mean((2, 3)).argmax(1)
    assert (torch.bincount(strongest, minlength=3) > 40).all()
    assert torch.allclose(jitter_colour(red, 0.0, BatchRng(0, 0, range(300), 300)), red, atol=1e-6)
    grey = jitter_colour(torch.full((50, 1, 4, 4), 0.5), 1.0, BatchRng(0, 0, range(50), 50))
    assert grey.std(0).min() > 0.05


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_monais_of_each_sample(classes: int) -> None:
    from monai.losses.dice import DiceCELoss

    rng = torch.Generator().manual_seed(0)
    logits, masks = torch.randn((3, classes, 8, 8), generator=rng), torch.randint(0, classes, (3, 8, 8), generator=rng)
    found = SegmentationLoss(lambda_dice=0.7, lambda_ce=0.4)(logits, masks)
    theirs = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, lambda_dice=0.7, lambda_ce=0.4)
    for row in range(3):
        assert torch.allclose(found[row], theirs(logits[row : row + 1], masks[row : row + 1, None]), atol=1e-6)
    assert torch.allclose(SegmentationLoss(lambda_dice=0.0)(logits, masks).mean(), nn.functional.cross_entropy(logits, masks), atol=1e-6)


def test_pictures_that_have_no_masks_are_refused() -> None:
    images, masks = discs(4)
    for one, other in ((images, masks[:3]), (images, masks[:, :8]), (images[:0], masks[:0])):
        with pytest.raises(InputError, match="give equally many"):
            fit_segmenter(network(), one, other, steps=1, seed=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        Augmentation(colour=2.0)
    with pytest.raises(InputError, match="neither may be below 0"):
        SegmentationLoss(lambda_dice=0.0, lambda_ce=0.0)
