import torch

from calotype.attention import AttentionControl, Capture, Inject, KeyScale, controlled, sites
from tests.attention.networks import call, network


def test_rules_on_a_tiny_unet() -> None:
    unet = network("sd")
    untouched = call("sd", unet, 2)
    with AttentionControl(unet, roles=("uncond", "cond")) as control:
        assert torch.equal(call("sd", unet, 2), untouched)
        queries = control.add(Capture(what="q", select=sites(kind="cross"), rows="cond", dtype=None))
        assert torch.equal(call("sd", unet, 2), untouched)
        control.add(KeyScale(mask=torch.ones(8, 8), rows="cond", select=sites(kind="self")))
        masked = call("sd", unet, 2)
        control.add(Inject(what=("q", "k"), src="uncond", dst="cond", select=sites(kind="self")))
        call("sd", unet, 2)
    assert queries.tensors
    assert torch.equal(masked[0], untouched[0])
    assert not torch.allclose(masked[1], untouched[1], atol=1e-4)
    assert torch.equal(call("sd", unet, 2), untouched)


def test_the_clock_follows_a_sampler() -> None:
    from calotype.core.samplers import heun_step, sample

    seen = []
    with AttentionControl(network("sd")) as control:
        denoise = controlled(
            lambda x, sigma: seen.append((control.context.index, control.context.count)) or x, control, [4.0, 2.0, 1.0, 0.0]
        )
        sample(denoise, torch.ones(1, 2), torch.tensor([4.0, 2.0, 1.0, 0.0]), step=heun_step)
    assert seen == [(0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
