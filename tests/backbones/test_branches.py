"""Branches meet attention in one place: roles, clock, what each branch is given, and the bound on rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.attention import AttentionControl, Capture, Inject, KeyScale, Swap, sites
from calotype.backbones import load
from calotype.core.denoiser import Condition
from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance
from calotype.core.samplers import sample
from calotype.core.stepping import StepContext
from calotype.errors import InputError
from tests import tiny
from tests.tolerance import ENDS, close, in_float64

CFG = ClassifierFreeGuidance(2.0)


@pytest.fixture
def model() -> Any:
    return in_float64(load(str(tiny.cached("toy-t2i")), device="cpu"))


@pytest.fixture
def x(model: Any) -> Tensor:
    return torch.randn(1, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))


def conditions(model: Any) -> dict[str, Condition]:
    words = {"cond": "a red ball", "uncond": "", "src": "a blue house"}
    return {label: model.condition(text) for label, text in words.items()}


@dataclass
class Batches:
    """The rows of every call of a network."""

    rows: list[Tensor] = field(default_factory=list)

    def on(self, model: Any) -> Batches:
        model.unet.register_forward_pre_hook(lambda module, arguments: self.rows.append(arguments[0].clone()))
        return self


class BesideTwice:
    """Guidance beside a source that is twice the sample, in the first step only."""

    labels = ("src", "uncond", "cond")

    def inputs(self, x: Tensor, step: StepContext) -> dict[str, Tensor]:
        return {**({"src": 2 * x} if step.index == 0 else {}), "uncond": x, "cond": x}

    def combine(self, estimates: Mapping[str, Tensor], sigma: float) -> Tensor:
        return CFG.combine(estimates, sigma)


def test_a_control_without_rules_changes_nothing(model: Any, x: Tensor) -> None:
    plain = model.denoiser(conditions(model), CFG)(x, 2.0)
    with AttentionControl(model) as control:
        denoise = model.denoiser(conditions(model), CFG, control=control)
        assert control.roles == ("uncond", "cond")
        assert torch.equal(denoise(x, 2.0), plain)
        assert control.context.roles == ("uncond", "cond")


def test_rules_must_name_branches_of_the_denoiser(model: Any) -> None:
    early = AttentionControl(model)
    early.add(Capture(rows="cond"))
    with pytest.raises(InputError, match="no role 'cond' in this batch; its roles are plain"):
        model.denoiser({"plain": model.condition("a")}, NoGuidance("plain"), control=early)
    late = AttentionControl(model)
    model.denoiser(conditions(model), CFG, control=late)
    with pytest.raises(InputError, match="no role 'src'"):
        late.add(Inject(src="src", dst="cond"))


def test_a_guidance_says_what_each_branch_is_given_in_each_step(model: Any, x: Tensor) -> None:
    seen = Batches().on(model)
    plain = model.denoiser(conditions(model), CFG)
    levels = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    with AttentionControl(model) as control:
        denoise = model.denoiser(conditions(model), BesideTwice(), control=control)
        control.add(Inject(what=("q", "k", "v"), src="src", dst=("uncond", "cond"), select=sites(kind="self")))
        sample(denoise, x, levels)
    assert [len(rows) for rows in seen.rows] == [3, 2]
    assert torch.equal(seen.rows[0][0], 2 * seen.rows[0][1])
    assert torch.equal(seen.rows[0][1], seen.rows[0][2])
    assert denoise.calls == 5
    # Beside nothing that is injected, the source leaves the edit alone.
    alone = model.denoiser(conditions(model), BesideTwice())
    close(alone.at(StepContext(0, 2))(x, 2.0), plain(x, 2.0), depth=ENDS, scale=3)


def test_single_branches_are_asked_for_by_name(model: Any, x: Tensor) -> None:
    denoise = model.denoiser(conditions(model), CFG)
    found = denoise.estimates({"src": 2 * x, "cond": x}, 2.0)
    assert list(found) == ["src", "cond"]
    close(found["src"], model.denoiser(conditions(model), NoGuidance("src"))(2 * x, 2.0), depth=ENDS)
    close(found["cond"], model.denoiser(conditions(model), NoGuidance("cond"))(x, 2.0), depth=ENDS)


def test_branches_that_no_rule_ties_are_evaluated_apart_under_a_bound(model: Any, x: Tensor) -> None:
    def run(network: Any) -> tuple[Tensor, dict[Any, Tensor]]:
        with AttentionControl(network) as control:
            denoise = network.denoiser(conditions(network), CFG, control=control)
            control.add(KeyScale(mask=torch.eye(8), rows="cond", select=sites(kind="self")))
            queries = control.add(Capture(what="q", select=sites(kind="cross"), rows="uncond", dtype=None))
            return denoise.at(StepContext(0, 1))(x, 2.0), queries.tensors

    together, kept = run(model)
    seen = Batches().on(model)
    apart, same = run(model.with_max_rows(1))
    assert [len(rows) for rows in seen.rows] == [1, 1]
    close(apart, together, depth=ENDS, scale=3)
    assert kept.keys() == same.keys()
    for key, queries in kept.items():
        close(same[key].float(), queries.float(), depth=ENDS)


@pytest.mark.parametrize("rule", [Inject(src="src", dst="cond"), Swap(src="src", dst="cond"), Capture(what="q")])
def test_branches_that_a_rule_ties_stay_together_or_are_refused(model: Any, x: Tensor, rule: Any) -> None:
    seen = Batches().on(model)
    tied = 3 if isinstance(rule, Capture) else 2
    for bound, calls in ((tied, [3] if tied == 3 else [2, 1]), (tied - 1, [])):
        network = model.with_max_rows(bound)
        with AttentionControl(network) as control:
            denoise = network.denoiser(conditions(network), BesideTwice(), control=control)
            control.add(rule)
            seen.rows.clear()
            if calls:
                denoise.at(StepContext(0, 1))(x, 2.0)
            else:
                with pytest.raises(InputError, match=f"max_rows is {bound}, .* {tied} rows must go in one call"):
                    denoise.at(StepContext(0, 1))(x, 2.0)
        assert [len(rows) for rows in seen.rows] == calls


def test_without_a_rule_in_the_step_rows_are_split_as_they_come(model: Any, x: Tensor) -> None:
    several = {label: Condition.cat([condition] * 3) for label, condition in conditions(model).items()}
    seen = Batches().on(model)
    network = model.with_max_rows(2)
    with AttentionControl(network) as control:
        denoise = network.denoiser(several, CFG, control=control)
        control.add(Capture(what="q", steps=lambda context: context.index > 0))
        denoise.at(StepContext(0, 2))(x.expand(3, -1, -1, -1), 2.0)
    assert [len(rows) for rows in seen.rows] == [2, 2, 2]
