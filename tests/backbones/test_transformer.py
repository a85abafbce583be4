"""Blocks of the video models, against float64 and against properties that their definitions demand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from calotype.backbones.transformer import AdaptiveBlock, RotaryAttention, SpaceTimeBlock, patches, rotary_angles, rotate, unpatched


@given(st.integers(-20, 20), st.integers(0, 9), st.integers(0, 9))
def test_turned_products_know_differences_of_positions_alone(shift: int, first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)

    def product(a: int, b: int) -> float:
        angles = rotary_angles(torch.tensor([[float(a)], [float(b)]]), 8).double()
        return float(rotate(query, angles[0]) @ rotate(key, angles[1]))

    assert abs(product(first, second) - product(first + shift, second + shift)) < 1e-5


def test_rotation_keeps_lengths() -> None:
    heads = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    turned = rotate(heads, rotary_angles(torch.rand(5, 2), 8))
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1), rtol=1e-6, atol=0)


def test_attention_is_softmax_of_turned_products() -> None:
    torch.manual_seed(0)
    attention, states, positions = RotaryAttention(16, 2).double(), torch.randn(1, 5, 16).double(), torch.rand(5, 2)
    angles = rotary_angles(positions, 8).double()
    query, key, value = attention.to_qkv(states)[0].view(5, 3, 2, 8).unbind(1)
    expected = torch.zeros(5, 16, dtype=torch.float64)
    for head in range(2):
        scores = rotate(query[:, head], angles) @ rotate(key[:, head], angles).T / 8**0.5
        expected[:, 8 * head : 8 * head + 8] = scores.softmax(-1) @ value[:, head]
    torch.testing.assert_close(attention(states, angles)[0], attention.to_out(expected), rtol=1e-9, atol=1e-9)


def test_tokens_are_known_by_their_positions_and_not_by_their_order() -> None:
    torch.manual_seed(1)
    block, states, told = AdaptiveBlock(16, 2).double(), torch.randn(1, 6, 16).double(), torch.randn(1, 1, 16).double()
    torch.nn.init.normal_(block.modulation.weight, std=0.1)
    angles, order = rotary_angles(torch.arange(6.0)[:, None], 8).double()[None], [4, 1, 0, 3, 5, 2]
    torch.testing.assert_close(block(states[:, order], told, angles[:, order]), block(states, told, angles)[:, order], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(block(states[:, order], told, angles), block(states, told, angles)[:, order])


def test_space_time_blocks_tell_frames_apart_in_time_alone() -> None:
    torch.manual_seed(2)
    block, states = SpaceTimeBlock(16, 2), torch.randn(1, 4, 3, 2, 16)
    changed = states.clone()
    changed[:, 2, ..., 0] += 1.0
    moved = (block(changed) - block(states)).abs().amax((0, 2, 3, 4))
    assert (moved > 1e-4).all()
    single = torch.randn(1, 1, 3, 2, 16)
    assert block(single).shape == single.shape


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_patches_and_back(channels: int, rows: int, columns: int, side: int) -> None:
    pictures = torch.arange(2 * channels * rows * columns * side**2).float().view(2, channels, rows * side, columns * side)
    tokens = patches(pictures, side)
    assert tokens.shape == (2, rows, columns, channels * side**2)
    assert torch.equal(unpatched(tokens, side), pictures)
    assert torch.equal(tokens[0, 0, 0].view(channels, side, side), pictures[0, :, :side, :side])
