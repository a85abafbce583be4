"""Feed-forward segmenters: fitted in memory where many are needed, trained on a user's folder where one is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.core.events import SILENT, Events
from calotype.errors import CalotypeError, InputError
from calotype.train.budget import learning_rate_share
from calotype.train.precision import precision_for
from calotype.train.rng import BatchRng, rows_of_step
from calotype.train.segmentation_batches import Augmentation, SegmentationLoss, channels_last

WARM_UP = 20
DECAY_SHARE = 0.5
"""Share of the steps over which the learning rate falls to 0, in place of a moving average of the weights."""
PLAIN = Augmentation()


def fit_segmenter(
    network: nn.Module,
    images: Float[Tensor, "count channels *sides"],
    masks: Int[Tensor, count * sides],
    *,
    steps: int,
    seed: int,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    augment: Augmentation | None = PLAIN,
    transform: Callable[[Tensor], Tensor] | None = None,
    loss: SegmentationLoss | None = None,
    device: str | torch.device = "cpu",
    events: Events = SILENT,
) -> nn.Module:
    """Train a network in memory, by the loss and the batches of `SegmenterTraining`; the same arguments give the same weights.

    Args:
        network: gives logits [B, K, *sides]; it is trained in place.
        images: in [0, 1].
        masks: class numbers, int64.
        steps: of `batch_size` samples each.
        seed: of the order of the samples and of the augmentation. The weights are the network's own.
        learning_rate: peak of AdamW's; a short warm-up before, a fall to 0 over the second half.
        augment: random changes of each batch; None takes the samples as they are.
        transform: of the pictures of each batch, after `augment`.
        loss: Dice and cross-entropy alike, by default.
        device: where it is trained.
        events: hears a step for each.

    Returns:
        The network, on the device, in evaluation mode.

    Raises:
        InputError: no samples, pictures and masks that don't belong together.
        CalotypeError: the training diverged.

    Example:
        >>> from calotype.backbones.segmenter_network import make_network, network_config
        >>> images = torch.rand(4, 1, 16, 16)
        >>> network = make_network(network_config("unet", channels=1, classes=2, window=(16, 16), widths=(4, 4, 8)))
        >>> fitted = fit_segmenter(network, images, (images[:, 0] > 0.5).long(), steps=2, seed=0, batch_size=2)
        >>> tuple(predict(fitted, images).shape)
        (4, 2, 16, 16)
    """
    if not len(images) or len(images) != len(masks) or images.shape[2:] != masks.shape[1:] or steps < 1:
        raise InputError(
            f"{list(images.shape)} pictures and {list(masks.shape)} masks for {steps} steps; give equally many, of equal sides"
        )
    place = torch.device(device)
    precision, criterion = precision_for(place), SegmentationLoss() if loss is None else loss
    images, masks = images.to(place, torch.float32), masks.to(place)
    if images.ndim == 4:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network.to(place).train()
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(steps):
        events.check()
        rows, rng = rows_of_step(step, batch_size, len(images), seed), BatchRng(seed, step, range(batch_size), batch_size)
        batch, truth = images[rows], masks[rows]
        if augment is not None:
            batch, truth = augment(batch, truth, rng)
        if transform is not None:
            batch = transform(batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_share(step / steps, step, warmup_steps=WARM_UP, decay_share=DECAY_SHARE)
        with torch.autocast(place.type, precision.dtype, enabled=precision.name != "float32"):
            logits = network(channels_last(batch))
        value = criterion(logits, truth).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            raise CalotypeError(f"the segmenter diverged at step {step}; take a lower learning rate than {learning_rate:g}")
        optimizer.step()
        events.step(1)
    return network.eval()


@torch.no_grad()
def predict(
    network: nn.Module, images: Float[Tensor, "count channels *sides"], *, batch_size: int = 64
) -> Float[Tensor, "count classes *sides"]:
    """Probabilities of whole pictures, float32, on the pictures' device; the pictures have sides that the network takes."""
    network.eval()
    place = next(network.parameters()).device
    return torch.cat([network(channels_last(part.to(place))).float().softmax(1).to(images.device) for part in images.split(batch_size)])
