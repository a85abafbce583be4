"""The orthogonal visual embedding: visual rows without their part in the space of the textual ones (section 3, first part)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError, ShapeError


def text_basis(
    text: Float[Tensor, "rows width"], *, tol: float = 1e-4, max_rank: int | None = None, energy: float = 1.0
) -> Float[Tensor, "rank width"]:
    """Orthonormal rows that span the textual rows: a rank-revealing SVD, in float32 on the CPU.

    Repeated or nearly repeated rows count once. A QR decomposition would give as many directions as there are rows, all but the rank of
    them arbitrary.

    Args:
        text: textual rows.
        tol: singular values below `tol` times the largest count as 0.
        max_rank: keep at most so many directions, the strongest first.
        energy: keep the strongest directions that together hold this share of the squared singular values.

    Example:
        >>> row = torch.tensor([[1.0, 2.0, 3.0]])
        >>> text_basis(row.repeat(15, 1)).shape
        torch.Size([1, 3])
    """
    if not 0 < energy <= 1:
        raise InputError(f"energy is {energy}; it must be above 0 and at most 1")
    rows = text.detach().float().cpu()
    if rows.numel() == 0 or not bool((rows != 0).any()):
        return torch.zeros(0, text.shape[-1])
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    rank = int((values > tol * values[0]).sum())
    if energy < 1:
        shares = values.square().cumsum(0) / values.square().sum()
        rank = min(rank, int((shares < energy).sum()) + 1)
    made: Tensor = basis[: rank if max_rank is None else min(rank, max_rank)]
    return made


def random_basis(rank: int, width: int, seed: int) -> Float[Tensor, "rank width"]:
    """Orthonormal rows of a random subspace: the control that no projection on words should beat by its rank alone."""
    generator = torch.Generator("cpu").manual_seed(seed)
    made: Tensor = torch.linalg.qr(torch.randn(width, max(rank, 1), generator=generator)).Q.T[:rank]
    return made


def project_out(
    rows: Float[Tensor, "batch rows width"], basis: Float[Tensor, "rank width"], *, eta: float = 1.0, keep_norm: bool = False
) -> tuple[Float[Tensor, "batch rows width"], Float[Tensor, "batch rows"]]:
    """rows - eta * (their part in the basis), and the share of each row's norm that lies there."""
    basis = basis.to(rows.device, torch.float32)
    parallel = rows.float() @ basis.T @ basis
    norm = rows.float().norm(dim=-1)
    ratio = parallel.norm(dim=-1) / norm.clamp(min=1e-12)
    if eta == 0:
        return rows, ratio
    made = rows.float() - eta * parallel
    if keep_norm:
        made = made * (norm / made.norm(dim=-1).clamp(min=1e-12))[..., None]
    return made.to(rows.dtype), ratio


def orthogonalise(
    v: Float[Tensor, "batch rows width"],
    text: Float[Tensor, "batch textual width"],
    eta: float = 1.0,
    tol: float = 1e-4,
    max_rank: int | None = None,
    keep_norm: bool = False,
    energy: float = 1.0,
) -> tuple[Float[Tensor, "batch rows width"], Float[Tensor, "batch rows"]]:
    """v - eta * v P, where P projects on the span of the textual rows of the same item.

    Args:
        v: visual rows.
        text: textual rows; they stay as they are.
        eta: how much of the textual part goes, 0 (none) to 1 (all).
        tol, max_rank, energy: see `text_basis`.
        keep_norm: give each row its old length again.

    Returns:
        The rows, and the share of each row's norm that lay in the textual subspace (0 to 1): where it is hardly larger than
        sqrt(rank / width), what a random subspace takes, the step does little.

    Raises:
        ShapeError: batch or width differ.

    Example:
        >>> v, text = torch.tensor([[[1.0, 1.0, 0.0]]]), torch.tensor([[[2.0, 0.0, 0.0]]])
        >>> made, ratio = orthogonalise(v, text)
        >>> made.tolist(), round(float(ratio), 3)
        ([[[0.0, 1.0, 0.0]]], 0.707)
    """
    if v.shape[0] != text.shape[0] or v.shape[-1] != text.shape[-1]:
        raise ShapeError(f"visual rows {list(v.shape)} and textual rows {list(text.shape)} must have the same batch and width")
    parts = [
        project_out(one[None], text_basis(words, tol=tol, max_rank=max_rank, energy=energy), eta=eta, keep_norm=keep_norm)
        for one, words in zip(v, text, strict=True)
    ]
    return torch.cat([rows for rows, _ in parts]), torch.cat([ratio for _, ratio in parts])


@dataclass(frozen=True, eq=False)
class EmbeddingMixer:
    """A conditioning that mixes visual and textual rows, of any encoder: which rows are which is all that the projection asks.

    `of_branches` is for encoders that keep a branch of their own for the picture, as IP-Adapter does; its image tokens must have the
    text's width, so give what its keys' projection makes of both (`to_k_ip` and `to_k` of a layer).

    Example:
        >>> text, image = torch.eye(3)[None, :2], torch.ones(1, 1, 3)
        >>> EmbeddingMixer.of_branches(text, image).orthogonal()[0].rows[0, 2].tolist()
        [0.0, 0.0, 1.0]
    """

    rows: Float[Tensor, "batch length width"]
    visual: tuple[int, ...]
    """Places of the visual rows."""
    textual: tuple[int, ...]
    """Places of the rows that span the textual subspace."""

    @classmethod
    def of_branches(cls, text: Float[Tensor, "batch words width"], image: Float[Tensor, "batch tokens width"]) -> EmbeddingMixer:
        """Text rows followed by image tokens."""
        words, tokens = text.shape[1], image.shape[1]
        return cls(torch.cat([text, image], dim=1), tuple(range(words, words + tokens)), tuple(range(words)))

    def orthogonal(
        self, *, eta: float = 1.0, energy: float = 1.0, keep_norm: bool = False, random_seed: int | None = None
    ) -> tuple[EmbeddingMixer, Float[Tensor, "batch rows"]]:
        """The same with orthogonalised visual rows, and the share of their norm that lay in the subspace.

        `random_seed` takes a random subspace of the same rank instead.
        """
        made = self.rows.clone()
        ratios = []
        for number, one in enumerate(self.rows):
            basis = text_basis(one[list(self.textual)], energy=energy)
            if random_seed is not None:
                basis = random_basis(len(basis), one.shape[-1], random_seed + number)
            rows, ratio = project_out(one[None, list(self.visual)], basis, eta=eta, keep_norm=keep_norm)
            made[number, list(self.visual)] = rows[0]
            ratios.append(ratio)
        return EmbeddingMixer(made, self.visual, self.textual), torch.cat(ratios)
