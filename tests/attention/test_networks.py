"""The mechanism on every supported network."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from calotype.attention import AttentionControl, Capture, Inject, KeyScale, Site, TokenMaps, attention_sites, sites
from calotype.attention.qkv import AttentionInputs
from calotype.backbones import load
from calotype.core.guidance import NoGuidance
from calotype.core.samplers import heun_step, sample
from calotype.core.stepping import StepContext, always
from tests import tiny
from tests.attention.networks import DISTINCT, FRAMES, KINDS, call, inputs, network, untouched
from tests.tolerance import close, layers, tolerance

SITES = {
    "sd": {"self": 10, "cross": 10},
    "sd21": {"self": 4, "cross": 4},
    "sdxl": {"self": 11, "cross": 11},
    "svd": {"self": 4, "cross": 4, "temporal-self": 4, "temporal-cross": 4},
    "i2vgen": {"self": 4, "cross": 4, "temporal-self": 11},
    "dit": {"self": 2},
    "pixart": {"self": 2, "cross": 2},
}


class Identity:
    """A rule that changes nothing: attention runs in the mechanism's own path."""

    select = staticmethod(lambda site: True)
    steps = staticmethod(always)

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        return states


def fingerprint(model: Any) -> list[tuple[str, int, bool, int, int]]:
    """Everything that a control could leave behind."""
    return [
        (
            name,
            id(getattr(module, "processor", None)),
            "forward" in module.__dict__,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    ]


def _call_within(control: AttentionControl, kind: str) -> None:
    with control:
        call(kind, control.model, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_sites_have_their_kind_and_grid(kind: str) -> None:
    found = attention_sites(network(kind), (8, 8))
    assert Counter(site.kind for site in found) == SITES[kind]
    assert all((site.grid is None) == site.temporal and site.obstacle is None for site in found)
    assert all(site.head_dim * site.heads == site.dim > 0 for site in found)
    coarsest = min(site.grid[0] for site in found if site.grid)
    assert coarsest == {"sd": 1, "sd21": 4, "sdxl": 2, "svd": 4, "i2vgen": 4, "dit": 4, "pixart": 4}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_without_active_rules_the_network_is_itself_to_the_bit_and_leaves_as_it_came(kind: str) -> None:
    model = network(kind)
    plain, before = untouched(kind, 2), fingerprint(model)
    with AttentionControl(model, roles=("uncond", "cond")) as control:
        control.add(Inject(src="uncond", dst="cond", steps=lambda context: context.index > 0))
        assert torch.equal(call(kind, model, 2), plain)
        control.begin_step(1, 2)
        assert not torch.equal(call(kind, model, 2), plain)
    assert fingerprint(model) == before
    assert torch.equal(call(kind, model, 2), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_that_changes_nothing_changes_no_bit(kind: str) -> None:
    model = network(kind)
    with AttentionControl(model, roles=("uncond", "cond")) as control:
        control.add(Identity())
        assert torch.equal(call(kind, model, 2), untouched(kind, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_restored_after_an_error(kind: str) -> None:
    model = network(kind)
    before = fingerprint(model)

    class Broken(Identity):
        def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
            raise ZeroDivisionError

    control = AttentionControl(model, roles=("a", "b"))
    control.add(Broken())
    with pytest.raises(ZeroDivisionError):
        _call_within(control, kind)
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", DISTINCT)
def test_injection_leaves_the_source_and_changes_the_others(kind: str) -> None:
    model = network(kind)
    plain = untouched(kind, 3)
    with AttentionControl(model, roles=("src", "uncond", "cond")) as control:
        rule = control.add(Inject(what=("q", "k", "v"), src="src", dst=("uncond", "cond")))
        changed = call(kind, model, 3)
        assert torch.equal(changed[0], plain[0])
        assert all(float((changed[row] - plain[row]).abs().max()) > 1e-4 for row in (1, 2))
        equal = {
            name: value[:1].expand(3, *value.shape[1:]) if isinstance(value, torch.Tensor) else value
            for name, value in inputs(kind, 3).items()
            if name != "added_cond_kwargs"
        }
        if kind in ("sdxl", "pixart"):
            added = inputs(kind, 3)["added_cond_kwargs"]
            equal["added_cond_kwargs"] = {name: value if value is None else value[:1].expand(3, -1) for name, value in added.items()}
        with torch.no_grad():
            with_rule = model(**equal, return_dict=False)[0]
            control.remove(rule)
            # Not to the bit: equal rows of one batch differ in the last digits without any rule, too.
            close(model(**equal, return_dict=False)[0], with_rule, depth=layers(model))


@pytest.mark.parametrize("kind", DISTINCT)
def test_captured_queries_and_keys_give_the_probabilities_that_the_network_used(kind: str) -> None:
    model = network(kind)
    module_name = next(site.name for site in attention_sites(model) if site.kind == "self")
    module: Any = model.get_submodule(module_name)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(module, part).register_forward_hook(lambda m, i, out, part=part: seen.__setitem__(part, out)) for part in ("to_q", "to_k")
    ]
    maps, select = TokenMaps(), sites(name=f"^{module_name}$")
    with AttentionControl(model, roles=("a", "b")) as control:
        queries = control.add(Capture(what="q", select=select, dtype=None))
        control.add(Capture(what="probs", select=select, reduce=maps))
        call(kind, model, 2)
    for hook in hooks:
        hook.remove()
    q, k = (seen[part].unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in ("to_q", "to_k"))
    by_hand = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
    assert torch.equal(queries.tensors[module_name, 0], q)
    found = maps.maps()[module_name].flatten(2)
    close(found, by_hand.transpose(1, 2), depth=q.shape[-1] + found.shape[1])
    close(found.sum(1), torch.ones(found.shape[0], found.shape[2]), depth=found.shape[1])


@pytest.mark.parametrize("kind", DISTINCT)
def test_two_rows_a_role_are_the_same_as_one_at_a_time(kind: str) -> None:
    model, mask = network(kind), torch.zeros(8, 8)
    mask[:4] = 1

    def run(batch: dict[str, Any], rows: list[int]) -> torch.Tensor:
        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: pick(entry) for name, entry in value.items()}
            return value[rows] if isinstance(value, torch.Tensor) else value

        with torch.no_grad(), AttentionControl(model, roles=("uncond", "cond")) as control:
            control.add(KeyScale(mask=mask, rows="cond", select=sites(kind="self")))
            control.add(Inject(src="uncond", dst="cond", select=lambda site: site.temporal or site.kind == "self"))
            return model(**{name: pick(value) for name, value in batch.items()}, return_dict=False)[0]  # type: ignore[no-any-return]

    batch = inputs(kind, 4)
    both = run(batch, [0, 1, 2, 3])
    for item in (0, 1):
        close(run(batch, [item, item + 2]), both[[item, item + 2]], depth=layers(model))
    assert float((both[0] - both[1]).abs().max()) > 10 * tolerance(both, depth=layers(model))


@pytest.mark.parametrize("kind", DISTINCT)
def test_grids_follow_the_call_of_any_shape(kind: str) -> None:
    model, size = network(kind), (8, 12)
    with AttentionControl(model, roles=("a", "b")) as control:
        queries = control.add(Capture(what="q", select=sites(kind=("self", "cross"))))
        call(kind, model, 2, size)
    assert queries.tensors
    for (name, _), tensor in queries.tensors.items():
        grid = queries.sites[name].grid
        assert grid is not None
        assert tensor.shape[2] == grid[0] * grid[1]


def test_rows_of_clips_are_found_in_frames_and_in_places() -> None:
    model = network("svd")
    with AttentionControl(model, roles=("src", "uncond", "cond")) as control:
        spatial = control.add(Capture(what="q", select=sites(kind="self", stride=1), rows="uncond", dtype=None))
        temporal = control.add(Capture(what="q", select=sites(kind="temporal-self", stride=1), rows="uncond", dtype=None))
        everything = control.add(Capture(what="q", select=sites(kind="temporal-self", stride=1), dtype=None))
        call("svd", model, 3)
    assert {tensor.shape[0] for tensor in spatial.tensors.values()} == {FRAMES}
    assert {tuple(tensor.shape[::2]) for tensor in temporal.tensors.values()} == {(64, FRAMES)}
    for key, tensor in temporal.tensors.items():
        assert torch.equal(tensor, everything.tensors[key][64:128])


def test_the_clock_follows_a_sampler() -> None:
    seen = []
    levels = torch.tensor([4.0, 2.0, 1.0, 0.0])
    model = load(str(tiny.cached("sd")), device="cpu")

    class Clock(Identity):
        select = staticmethod(sites(kind="self", place="mid"))

        def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
            seen.append((context.index, context.count, context.sigma))
            return states

    with AttentionControl(model) as control:
        denoise = model.denoiser({"cond": model.condition("a")}, NoGuidance(), control=control)
        control.add(Clock())
        sample(denoise, torch.ones(1, *model.latent_shape((64, 64))), levels, step=heun_step)
    assert seen == [(0, 3, 4.0), (1, 3, 2.0), (1, 3, 2.0), (2, 3, 1.0), (2, 3, 1.0)]
