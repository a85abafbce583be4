import pytest
import torch

from calotype.attention import AttentionControl, when
from calotype.errors import InputError
from calotype.features import FeatureInject, FeatureTap
from tests.attention.networks import FRAMES, call, network
from tests.tolerance import close

CONV = {
    "sd": "up_blocks.1.resnets.1.conv2",
    "svd": "up_blocks.1.resnets.1.spatial_res_block.conv2",
    "i2vgen": "up_blocks.1.resnets.1.conv2",
}


@pytest.mark.parametrize("kind", list(CONV))
def test_a_convolution_is_tapped_and_injected_under_the_same_clock(kind: str) -> None:
    model = network(kind)
    untouched = call(kind, model, 3)
    frames = 1 if kind == "sd" else FRAMES
    with AttentionControl(model, roles=("src", "uncond", "cond")) as control:
        before = control.add(FeatureTap(module=CONV[kind], dtype=None))
        control.add(FeatureInject(module=CONV[kind], src="src", dst=("uncond", "cond"), steps=when(0, 1)))
        after = control.add(FeatureTap(module=CONV[kind], rows="cond", dtype=None))
        changed = call(kind, model, 3)
        control.begin_step(1, 2)
        assert torch.equal(call(kind, model, 3), untouched)
    assert before.tensors[0].shape[0] == 3 * frames
    assert torch.equal(after.tensors[0], before.tensors[0][:frames])
    assert torch.equal(changed[0], untouched[0])
    assert float((changed[2] - untouched[2]).abs().max()) > 1e-4
    assert torch.equal(call(kind, model, 3), untouched)


def test_networks_without_attention_have_features_too() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(2, 1, 1))
    picture = torch.randn(2, 1, 4, 4)
    plain = model(picture)
    with AttentionControl(model, roles=("a", "b")) as control:
        inject = control.add(FeatureInject(module="0", src="a", dst="b"))
        close(model(picture)[1], plain[0], depth=2)
        control.remove(inject)
        assert torch.equal(model(picture), plain)


def test_bad_requests_are_refused() -> None:
    control = AttentionControl(network("sd"), roles=("a", "b"))
    with pytest.raises(InputError, match=r"no module 'up_blocks\.9'"):
        control.add(FeatureTap(module="up_blocks.9"))
    with pytest.raises(InputError, match="no role 'src'"):
        control.add(FeatureInject(module="mid_block.resnets.0", src="src", dst="b"))
    control.add(FeatureTap(module="down_blocks.0"))
    with control, pytest.raises(InputError, match=r"down_blocks\.0 returns a tuple"):
        call("sd", control.model, 2)
