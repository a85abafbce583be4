"""What each rule does to attention, against attention written out by hand; and what is refused."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.attention import AttentionControl, Capture, Inject, KeyBias, KeyScale, KeySums, OutBlend, Swap, TokenMaps, sites, when
from calotype.attention.qkv import AttentionInputs, attend
from calotype.attention.rules import Order
from calotype.attention.sites import Site
from calotype.core.stepping import StepContext
from calotype.errors import InputError, ShapeError
from tests import tolerance
from tests.attention.networks import call, network, untouched

SITE = Site("up_blocks.1.attentions.0.transformer_blocks.0.attn1", "self", "up", 1, 0, 0, 2, 16, 16, 1, grid=(2, 4))
CONTEXT = StepContext(0, 10, 1.0, ("a", "b", "c"))


def states(rows: int = 6, tokens: int = 8) -> AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, 2, tokens, 8, generator=generator) for _ in range(3))
    return AttentionInputs(q, k, v)


def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v


MASK = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.25, 1.0]])
KEPT = [1, 2, 3, 4, 5, 6]


DEPTH = 32
"""Heads of 8 numbers, up to 16 keys, and a softmax."""


def close(found: Tensor, expected: Tensor) -> None:
    tolerance.close(found, expected, depth=DEPTH)


def test_key_scale_multiplies_the_keys_of_its_role_only() -> None:
    plain = states()
    found = attend(KeyScale(mask=MASK, rows="b")(SITE, plain, CONTEXT))
    assert torch.equal(found[[0, 1, 4, 5]], attend(plain)[[0, 1, 4, 5]])
    scaled = plain.k[2:4] * (1 - MASK.flatten())[:, None]
    close(found[2:4], by_hand(plain.q[2:4], scaled, plain.v[2:4]))


def test_a_mask_of_the_picture_is_resized_to_the_grid_and_may_differ_by_row() -> None:
    plain, picture = states(), torch.zeros(2, 16, 32)
    picture[1, :, 16:] = 1
    found = KeyScale(mask=picture, rows="c")(SITE, plain, CONTEXT).k
    assert torch.equal(found[:5], plain.k[:5])
    assert torch.equal(found[5].unflatten(1, (2, 4))[:, :, 2:], torch.zeros(2, 2, 2, 8))
    assert torch.equal(found[5].unflatten(1, (2, 4))[:, :, :2], plain.k[5].unflatten(1, (2, 4))[:, :, :2])


def test_key_bias_drops_or_weighs_keys() -> None:
    plain = states()
    dropped = attend(KeyBias(mask=MASK, rows="b")(SITE, plain, CONTEXT))
    assert torch.equal(dropped[[0, 1, 4, 5]], attend(plain)[[0, 1, 4, 5]])
    close(dropped[2:4], by_hand(plain.q[2:4], plain.k[2:4][:, :, KEPT], plain.v[2:4][:, :, KEPT]))
    weighed = attend(KeyBias(mask=MASK, rows="b", value=None)(SITE, plain, CONTEXT))
    close(weighed[2:4], by_hand(plain.q[2:4], plain.k[2:4], plain.v[2:4], torch.log(1 - MASK.flatten())))


def test_inject_copies_the_source() -> None:
    plain = states()
    found = Inject(what="k", src="a", dst=("b", "c"))(SITE, plain, CONTEXT)
    assert torch.equal(found.k, plain.k[[0, 1, 0, 1, 0, 1]])
    assert found.q is plain.q
    assert torch.equal(states().k, plain.k)


def test_swap_attends_to_the_source_alone_or_as_well() -> None:
    plain = states()
    alone = attend(Swap(src="a", dst="c")(SITE, plain, CONTEXT))
    close(alone[:4], attend(plain)[:4])
    close(alone[4:], by_hand(plain.q[4:], plain.k[:2], plain.v[:2]))
    both = attend(Swap(src="a", dst="c", mode="concat", src_mask=1 - MASK)(SITE, plain, CONTEXT))
    close(both[:4], attend(plain)[:4])
    k, v = (torch.cat([part[4:], part[:2][:, :, KEPT]], dim=2) for part in (plain.k, plain.v))
    close(both[4:], by_hand(plain.q[4:], k, v))
    nothing = attend(Swap(src="a", dst="c", mode="concat", src_mask=torch.zeros(2, 4))(SITE, plain, CONTEXT))
    close(nothing, attend(plain))


def test_rules_act_in_the_stated_order_however_they_are_added() -> None:
    model = network("sd")

    def run(*rules: Any) -> Tensor:
        with AttentionControl(model, roles=("a", "b"), latent_size=(8, 8)) as control:
            for rule in rules:
                control.add(rule)
            return call("sd", model, 2)

    where = sites(kind="self")
    scale, copy = KeyScale(mask=torch.ones(8, 8), rows="b", select=where), Inject(what="k", src="a", dst="b", select=where)
    assert torch.equal(run(scale, copy), run(copy, scale))
    # Keys of b are a's, then zeroed: the same as zeroed keys alone, since Inject comes first.
    assert torch.equal(run(scale, copy), run(scale))
    second = Inject(what="k", src="b", dst="a", select=where)
    assert not torch.equal(run(copy, second), run(second, copy))


def test_scaling_after_a_swap_acts_on_the_keys_that_took_the_place_of_the_own_ones() -> None:
    plain = states()
    swapped = Swap(src="a", dst="c", mode="concat")(SITE, plain, CONTEXT)
    found = attend(KeyScale(mask=MASK, rows="c")(SITE, swapped, CONTEXT))
    mine = plain.k[4:] * (1 - MASK.flatten())[:, None]
    close(found[4:], by_hand(plain.q[4:], torch.cat([mine, plain.k[:2]], 2), torch.cat([plain.v[4:], plain.v[:2]], 2)))


def test_out_blend_takes_the_rules_inside_of_its_mask() -> None:
    model, where = network("sd"), sites(kind="self")
    scale = KeyScale(mask=torch.ones(8, 8), rows="b", select=where)

    def run(*rules: Any) -> Tensor:
        with AttentionControl(model, roles=("a", "b")) as control:
            for rule in rules:
                control.add(rule)
            return call("sd", model, 2)

    ruled, native = run(scale), run()
    for blend, expected, other in ((torch.ones(8, 8), ruled, native), (torch.zeros(8, 8), native, ruled)):
        found = run(scale, OutBlend(mask=blend, rows="b", select=where))
        tolerance.close(found, expected, depth=tolerance.layers(model))
        assert float((found - other).abs().max()) > 4 * tolerance.tolerance(expected, depth=tolerance.layers(model))


def test_rules_keep_gradients() -> None:
    model = network("sd")
    text = torch.randn(2, 5, 64, requires_grad=True)
    with AttentionControl(model, roles=("a", "b")) as control:
        control.add(Inject(what=("q", "k"), src="a", dst="b"))
        control.add(KeyScale(mask=torch.eye(8), rows="b", select=sites(kind="self")))
        model(torch.ones(2, 4, 8, 8), 1, text, return_dict=False)[0].sum().backward()
    assert text.grad is not None
    assert bool(text.grad[0].any())


def test_steps_by_number_fraction_and_noise_level() -> None:
    def active(rule: when, count: int = 50) -> list[int]:
        return [index for index in range(count) if rule(StepContext(index, count, sigma=count - index))]

    assert active(when(0.0, 0.2)) == list(range(10))
    assert active(when(1, 40)) == list(range(1, 40))
    assert active(when(0.5), 8) == [4, 5, 6, 7]
    assert active(when(sigma_min=48, sigma_max=49)) == [1, 2]
    with pytest.raises(InputError, match=r"start is 1\.5"):
        when(1.5)


def test_key_masking_acts_in_the_branch_and_the_steps_that_it_is_asked_for() -> None:
    model = network("sd")
    batch = call("sd", model, 2)
    same = {"sample": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)}
    text = torch.ones(4, 5, 64)
    mask = torch.stack([torch.zeros(8, 8), torch.eye(8)])
    with torch.no_grad(), AttentionControl(model, roles=("uncond", "cond")) as control:
        control.add(KeyScale(mask=mask, rows="cond", select=sites(kind="self"), steps=when(0, 5)))
        for index, masked_row_differs in ((4, True), (5, False)):
            control.begin_step(index, 10)
            output = model(same["sample"], 1, text, return_dict=False)[0]
            rounding = tolerance.tolerance(output, depth=tolerance.layers(model))
            difference = (output[2:] - output[:2]).flatten(1).abs().amax(1)
            assert float(difference[0]) <= rounding
            assert (float(difference[1]) > 2 * rounding) is masked_row_differs
            assert masked_row_differs or float(difference[1]) <= rounding
    assert torch.equal(call("sd", model, 2), batch)


def test_controls_nest_even_with_other_roles() -> None:
    model = network("sd")
    plain = untouched("sd", 4)
    scale = KeyScale(mask=torch.ones(8, 8), rows="src", select=sites(kind="self"))
    swap = Swap(src="src", dst="bg", mode="concat", select=sites(kind="self"))
    with AttentionControl(model, roles=("src", "bg", "fg", "canvas")) as inner:
        inner.add(scale)
        inner.add(swap)
        alone = call("sd", model, 4)
    maps = TokenMaps()
    with AttentionControl(model, roles=("uncond", "cond")) as outer:
        outer.add(Capture(what="probs", select=sites(kind="cross"), rows="uncond", reduce=maps))
        with AttentionControl(model, roles=("src", "bg", "fg", "canvas")) as inner:
            inner.add(scale)
            inner.add(swap)
            assert torch.equal(call("sd", model, 4), alone)
        assert torch.equal(call("sd", model, 4), plain)
    assert all(total.shape[0] == 2 for total in maps.maps().values())
    assert torch.equal(call("sd", model, 4), plain)


def test_reducers_sum_over_steps_and_a_repeated_call_counts_once() -> None:
    model, maps, sums = network("sd"), TokenMaps(tokens=(1, 3), each_step=True), KeySums()
    with AttentionControl(model, roles=("a", "b")) as control:
        control.add(Capture(what="probs", select=sites(kind="cross", side=8), rows="b", reduce=maps))
        control.add(Capture(what="probs", select=sites(kind="self", side=8), rows="b", reduce=sums))
        for index in range(3):
            control.begin_step(index, 3)
            for _ in range(2):
                call("sd", model, 2, seed=index)
    assert maps.steps == 3
    combined = maps.combined((16, 16))
    assert combined.shape == (1, 2, 16, 16)
    assert float(combined.min()) > 0
    by_step = sum(maps.by_step[name, step].float() for name, step in maps.by_step if name == next(iter(maps.sites)))
    torch.testing.assert_close(maps.maps()[next(iter(maps.sites))].flatten(2), by_step, atol=2e-3, rtol=0)
    for total in sums.sums().values():
        torch.testing.assert_close(total.sum(-1), torch.tensor([3.0]))


def test_stored_captures_are_copies_in_the_asked_precision() -> None:
    model = network("sd")
    with AttentionControl(model, roles=("a", "b")) as control:
        queries = control.add(Capture(what="q", select=sites(kind="cross", place="mid"), rows=("b", "a")))
        hidden = control.add(Capture(what="attn_output", select=sites(place="mid"), dtype=None))
        call("sd", model, 2)
    assert {(tensor.dtype, tensor.shape[0]) for tensor in queries.tensors.values()} == {(torch.float16, 2)}
    assert all(tensor.shape == (2, 1, 64) for tensor in hidden.tensors.values())


class Adapter(nn.Module):
    """A processor with weights and an argument of its own, as IP-Adapter's."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.base = base
        self.seen: list[Any] = []

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None, strength: float = 0.0
    ) -> Any:
        self.seen.append(strength)
        return self.base(attn, hidden_states, encoder_hidden_states, attention_mask)


def test_a_processor_with_weights_stays_registered_and_keeps_its_arguments() -> None:
    model = network("sd")
    module = model.mid_block.attentions[0].transformer_blocks[0].attn1
    stock = module.processor
    adapter = Adapter(stock)
    module.set_processor(adapter)
    try:
        with torch.no_grad(), AttentionControl(model) as control:
            assert "mid_block.attentions.0.transformer_blocks.0.attn1.processor.weight" in model.state_dict()
            output = control.add(Capture(what="attn_output", select=sites(place="mid")))
            model(torch.ones(1, 4, 8, 8), 1, torch.ones(1, 5, 64), cross_attention_kwargs={"strength": 2.0})
            assert adapter.seen == [2.0]
            assert len(output.tensors) == 2
            with pytest.raises(InputError, match="processor Adapter"):
                control.add(KeyScale(mask=torch.eye(8), select=sites(place="mid", kind="self")))
    finally:
        module.set_processor(stock)


def test_unsupported_attention_is_named() -> None:
    from diffusers import SD3Transformer2DModel
    from diffusers.models.attention_processor import Attention

    model = network("sd")
    model.fuse_qkv_projections()
    try:
        with pytest.raises(InputError, match="unfuse_qkv_projections"):
            AttentionControl(model).add(Capture(select=sites(kind="self")))
    finally:
        model.unfuse_qkv_projections()
    joint = SD3Transformer2DModel(
        sample_size=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=16,
    )
    with pytest.raises(InputError, match="joint attention"):
        AttentionControl(joint).add(Capture())
    added = nn.Sequential(Attention(16, heads=2, dim_head=8, added_kv_proj_dim=16))
    with pytest.raises(InputError, match="added key and value"):
        AttentionControl(added).add(Capture())


@pytest.mark.bad_input
def test_bad_requests_are_refused() -> None:
    model = network("sd")
    control = AttentionControl(model, roles=("a", "b"), latent_size=(8, 8))
    with pytest.raises(InputError, match="no role 'cond'"):
        control.add(Inject(src="a", dst="cond"))
    with pytest.raises(InputError, match=r"selects no attention.*cross 8x8"):
        control.add(Capture(select=sites(kind="temporal-self")))
    with pytest.raises(InputError, match="kind 'spatial' is unknown"):
        sites(kind="spatial")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs a reducer"):
        Capture(what="probs")
    with pytest.raises(InputError, match="different names"):
        AttentionControl(model, roles=("a", "a"))
    control.add(Capture(select=sites(kind="self")))
    with control, pytest.raises(ShapeError, match="batch of 3 for the 2 roles"):
        call("sd", model, 3)
    with AttentionControl(model, roles=("a", "b")) as fresh:
        fresh.add(KeyScale(mask=torch.eye(8), select=sites(kind="cross")))
        with pytest.raises(ShapeError, match=r"select sites\(kind='self'\)"):
            call("sd", model, 2)
    with pytest.raises(ShapeError, match="leaves no key"):
        KeyBias(mask=torch.ones(8, 8), value=-inf)(SITE, states(), CONTEXT)


@pytest.mark.parametrize("base", [Inject, Swap, KeyScale, KeyBias, OutBlend, Capture], ids=lambda base: base.__name__)
def test_a_subclass_acts_where_its_class_does(base: Any) -> None:
    """A note in the call is enough to make a subclass: the result must stay that of the class, whichever was added first."""
    noted: list[str] = []

    def noting(rule: Any) -> Any:
        class Noting(type(rule)):  # type: ignore[misc]
            def __call__(self, site: Site, given: AttentionInputs, context: StepContext) -> AttentionInputs:
                noted.append(site.name)
                return super().__call__(site, given, context)  # type: ignore[no-any-return]

        return Noting(**{field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.init})

    def rules() -> list[Any]:
        select = sites(kind="self")
        mask = torch.zeros(8, 8)
        mask[2:5, 3:] = 1
        return [
            Inject(src="a", dst="c", select=select),
            Swap(src="a", dst="b", mode="concat", select=select),
            KeyScale(mask=mask, select=select),
            KeyBias(mask=mask.roll(2, 0), value=-1.0, select=select),
            OutBlend(mask=mask.roll(3, 1), select=select),
            Capture(what="k", select=select, dtype=None),
        ]

    def outcome(chosen: list[Any]) -> tuple[Tensor, list[Tensor]]:
        capture = next(rule for rule in chosen if isinstance(rule, Capture))
        with AttentionControl(network("sd"), roles=("a", "b", "c")) as control:
            for rule in chosen:
                control.add(rule)
            control.begin_step(0, 1)
            return call("sd", network("sd"), 3), list(capture.tensors.values())

    expected, kept = outcome(rules())
    swapped = [noting(rule) if type(rule) is base else rule for rule in rules()]
    for order in (swapped, swapped[::-1]):
        for rule in order:
            if isinstance(rule, Capture):
                rule.tensors.clear()
        output, found = outcome(order)
        assert torch.equal(output, expected)
        assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))
    assert noted


def test_a_rule_of_ones_own_may_say_its_place_and_may_blend() -> None:
    class Halved:
        """No class of ours: half of what the rules made, half of the network's own."""

        select, steps, order = sites(kind="self"), when(), Order.OUT_BLEND

        def __call__(self, site: Site, given: AttentionInputs, context: StepContext) -> AttentionInputs:
            return given

        def blend(self, site: Site, ruled: Tensor, native: Tensor, context: StepContext) -> Tensor:
            return (ruled + native) / 2

    scale, everything = KeyScale(mask=torch.ones(8, 8), select=sites(kind="self")), torch.full((8, 8), 0.5)
    outputs = []
    for blend in (Halved(), OutBlend(mask=everything, select=sites(kind="self"))):
        with AttentionControl(network("sd")) as control:
            control.add(blend)
            control.add(scale)
            control.begin_step(0, 1)
            outputs.append(call("sd", network("sd"), 1))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
