from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from calotype.embedded import RECIPES, networks, pending, train_pending
from calotype.embedded.export import missing_gates, read_gates, write_gates
from calotype.embedded.inflate import inflate
from calotype.embedded.networks import alphas_cumprod, image_unet, seeded, video_unet
from calotype.embedded.tokenizer import build_tokenizer, world_words
from calotype.embedded.vae import Pictures, covariance, whiten
from calotype.errors import MissingError
from calotype.train.fast_attention import use_fast_attention
from calotype.train.muon import Muon, orthogonalise
from calotype.train.rng import BatchRng
from calotype.world import sample_scene
from tests.recorder import Recorder
from tests.tolerance import close, layers
from tests.train import narrow

THREE_LEVELS = {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3,
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal",) * 3,
}
"""A video network of exactly an image network's shape."""


def test_every_world_word_is_one_token_and_other_words_fall_to_letters() -> None:
    tokenizer = build_tokenizer(world_words())
    for word in world_words():
        assert len(tokenizer(word).input_ids) == 3, word
    for index in range(100):
        caption = sample_scene("small", split="tune", seed=0, index=index, num_frames=8).caption
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2 <= tokenizer.model_max_length
        assert tokenizer.decode(ids[1:-1]) == caption
    assert tokenizer.decode(tokenizer("zebra").input_ids[1:-1]).replace(" ", "") == "zebra"
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values())


def test_models_fit_their_budget() -> None:
    tokenizer = build_tokenizer(world_words())
    with torch.device("meta"):
        picture = networks.autoencoder(), networks.image_unet(), networks.text_encoder(tokenizer)
        clip = networks.video_unet(), networks.image_encoder()
    vae, unet, text, video, vision = (sum(value.numel() for value in part.parameters()) * 2e-6 for part in (*picture, *clip))
    assert vae <= 1.5
    assert unet + text <= 12.0
    assert video + vision <= 16.0


def test_a_video_network_begins_as_the_image_network_on_every_frame() -> None:
    image = seeded(0, lambda: image_unet(block_out_channels=(32, 64, 64))).eval()
    video = seeded(1, lambda: video_unet(block_out_channels=(32, 64, 64), num_attention_heads=(4, 4, 4), **THREE_LEVELS)).eval()
    inflate(video, image)
    frames, text, condition = torch.randn(2, 8, 4, 16, 16), torch.randn(2, 5, 128), torch.randn(2, 8, 4, 16, 16)
    timestep = torch.tensor([150, 600])
    alpha = alphas_cumprod()[timestep]
    with torch.no_grad():
        wanted = image(frames.flatten(0, 1), timestep.repeat_interleave(8), text.repeat_interleave(8, 0)).sample.unflatten(0, (2, 8))
        log_sigma = ((1 - alpha) / alpha).sqrt().log().float()
        made = video(torch.cat([frames, condition], 2), 0.25 * log_sigma, text, torch.rand(2, 3)).sample
    # Only the time embedding is not exact: it is fitted, and a random network's is harder to fit than a trained one's.
    assert float((made - wanted).square().mean().sqrt()) < 0.1 * float(wanted.std())


def test_more_levels_keep_the_outer_ones() -> None:
    image = seeded(0, lambda: image_unet(block_out_channels=(32, 64, 64)))
    video = seeded(1, lambda: video_unet(block_out_channels=(32, 64, 64, 32)))
    before = seeded(1, lambda: video_unet(block_out_channels=(32, 64, 64, 32)))
    inflate(video, image)
    ours, theirs = video.state_dict(), image.state_dict()
    assert torch.equal(ours["up_blocks.3.resnets.1.spatial_res_block.conv1.weight"], theirs["up_blocks.2.resnets.1.conv1.weight"])
    first = ours["up_blocks.1.resnets.0.spatial_res_block.conv1.weight"]
    assert torch.equal(first[:, -64:], theirs["up_blocks.0.resnets.0.conv1.weight"][:, -64:])
    assert torch.equal(
        ours["mid_block.resnets.0.spatial_res_block.conv1.weight"], before.mid_block.resnets[0].spatial_res_block.conv1.weight
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_orthogonalising_keeps_the_singular_vectors_and_levels_the_values(dtype: torch.dtype) -> None:
    left, _ = torch.linalg.qr(torch.randn(96, 24, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))
    for matrix in (left * torch.logspace(0, -2, 24) @ right.T, (left * torch.logspace(2, 0, 24) @ right.T).T):
        made = orthogonalise(matrix, dtype=dtype).double()
        turned = (left.T.double() @ made @ right.double()) if made.shape[0] == 96 else (right.T.double() @ made @ left.double()).T
        values = turned.diagonal()
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
        assert float((turned - values.diag()).abs().max()) < 0.05


def test_muon_turns_matrices_and_leaves_the_rest_to_adamw() -> None:
    module = seeded(0, lambda: torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Conv2d(2, 3, 3)))
    same = copy.deepcopy(module)
    optimizer = Muon(module, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    plain = torch.optim.AdamW(same.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    for one in (module, same):
        (one[0](torch.ones(2, 6)).square().sum() + one[1](torch.ones(1, 2, 4, 4)).square().sum()).backward()
    before = module[0].weight.detach().clone()
    gradient = module[0].weight.grad.clone()
    optimizer.step()
    plain.step()
    assert torch.allclose(module[0].bias, same[0].bias, atol=1e-6)
    step = (module[0].weight - before * (1 - 0.1 * 0.01)) / (-0.1 * 0.2 * 6**0.5)
    # A gradient of rank one: its orthogonalised form is itself over its norm, up to the coarse iteration.
    assert torch.nn.functional.cosine_similarity(step.flatten(), gradient.flatten(), dim=0) > 0.999
    assert 0.6 < float(step.detach().norm()) < 1.3
    assert module[1].weight.grad is None
    assert torch.isfinite(module[1].weight).all()


@pytest.mark.parametrize("name", ["toy-vae", "toy-t2i", "toy-i2v"])
def test_a_batch_gives_one_loss_a_sample_and_repeats(name: str, family: Path, tmp_path: Path) -> None:
    recipe = narrow.RECIPES[name]
    trainee = recipe.build(seed=0, start=family / name, checkpoints=family).eval()
    source = recipe.source(trainee, split="tune", seed=5, folder=tmp_path, checkpoints=family, start=family / name, device="cpu")
    rows = [0, 3]
    first = source.batch(rows, BatchRng(0, 0, range(2), 2), augment=False)
    again = source.batch(rows, BatchRng(0, 0, range(2), 2), augment=False)
    assert all(len(value) == 2 for value in first.values())
    assert all(torch.equal(first[key], again[key]) for key in first)
    with torch.no_grad():
        losses = trainee(first)
    assert losses.shape == (2,)
    assert bool(torch.isfinite(losses).all())


def test_whitening_gives_unit_covariance_and_the_same_pictures(family: Path) -> None:
    trainee = narrow.RECIPES["toy-vae"].build(seed=3, start=None, checkpoints=family)
    source = Pictures("tune", 0, "cpu", (4, 16, 16))
    whitened = whiten(trainee.vae, source, count=64)
    pixels = source.pixels(range(64))
    with torch.no_grad():
        latents = whitened.encode(pixels).latent_dist.mean
        assert torch.allclose(covariance(latents), torch.eye(4), atol=1e-3)
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
        assert torch.allclose(whitened(pixels).sample, trainee.vae(pixels).sample, atol=2e-3)


def test_the_picture_folder_loads_with_the_stock_pipeline(family: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(family / "toy-t2i", local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a red ball on sand", num_inference_steps=2, output_type="np", height=64, width=64).images
    assert made.shape == (1, 64, 64, 3)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_clip_folder_loads_with_the_stock_pipeline(family: Path) -> None:
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    pipeline = StableVideoDiffusionPipeline.from_pretrained(family / "toy-i2v", local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(Image.new("RGB", (64, 64), "red"), height=64, width=64, num_inference_steps=2, output_type="np").frames
    assert made.shape == (1, 8, 64, 64, 3)
    assert (family / "toy-i2v" / "text_encoder" / "model.safetensors").is_file()
    assert (family / "toy-i2v" / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["toy-vae", "toy-t2i", "toy-i2v"])
def test_our_loader_reads_the_exported_folder(name: str, family: Path) -> None:
    import calotype

    assert calotype.load(str(family / name), device="cpu", dtype="float32").name


@pytest.mark.numerics
def test_fast_attention_is_the_stock_attention() -> None:
    shape = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "num_attention_heads": (1, 2, 2, 2)}
    unet = seeded(0, lambda: video_unet(**shape)).eval()
    draw = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(2, 8, 8, 16, 16, generator=draw), torch.tensor([0.1, -0.4]), torch.randn(2, 5, 128, generator=draw),
        torch.rand(2, 3, generator=draw),
    )  # fmt: skip
    with torch.no_grad():
        stock = unet(*inputs, return_dict=False)[0]
        use_fast_attention(unet)[0] = 2
        fast = unet(*inputs, return_dict=False)[0]
    close(fast, stock, depth=layers(unet))


def test_a_worse_model_is_never_shipped(family: Path, tmp_path: Path) -> None:
    home = tmp_path / "checkpoints"
    shutil.copytree(family, home)
    weights = (home / "toy-vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    facts = read_gates(home)["toy-vae"]
    write_gates(home, "toy-vae", {**facts, "held_out": 1e-6})
    result = narrow.run("toy-vae", tmp_path / "worse", home, "2steps")
    assert not result.shipped
    assert result.held_out_shipped == 1e-6
    assert (home / "toy-vae" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert read_gates(home)["toy-vae"]["held_out"] == 1e-6
    # Without a known loss the shipped weights are measured; going on from them for some steps is better.
    write_gates(home, "toy-vae", {**facts, "held_out_count": 1})
    better = narrow.run("toy-vae", tmp_path / "better", home, "20steps")
    assert better.held_out_shipped == pytest.approx(facts["held_out"], rel=0.02)
    assert better.shipped
    assert better.held_out < better.held_out_shipped
    assert read_gates(home)["toy-vae"]["earlier"] == {"steps": 2}
    assert "20 of 4 samples" in (home / "toy-vae" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"held_out_precision": "another"}, True),
        ({"batch_size": 8}, True),  # the noise of a sample depends on its place in the batch
        ({"held_out_seed": 1}, True),
        ({"weights": "others"}, True),
    ],
    ids=str,
)
def test_losses_are_compared_only_if_measured_alike(family: Path, tmp_path: Path, change: dict[str, object], again: bool) -> None:
    home = tmp_path / "checkpoints"
    shutil.copytree(family, home)
    facts = read_gates(home)["toy-vae"]
    write_gates(home, "toy-vae", {**facts, "held_out": 1e-6, **change})
    heard = Recorder()
    result = narrow.run("toy-vae", tmp_path / "run", home, "1steps", events=heard)
    assert ("measure the shipped toy-vae" in [name for name, _, _ in heard.stages]) is again
    assert result.held_out_shipped == (pytest.approx(facts["held_out"], rel=0.02) if again else 1e-6)


def test_models_are_trained_in_the_order_of_need(family: Path, tmp_path: Path) -> None:
    assert pending(tmp_path) == list(RECIPES)
    home = tmp_path / "checkpoints"
    shutil.copytree(family, home)
    passing = {gate.metric: gate.bar for gate in RECIPES["toy-i2v"].gates}
    write_gates(home, "toy-i2v", {**read_gates(home)["toy-i2v"], "figures": passing})
    half = {gate.metric: gate.bar for gate in RECIPES["toy-t2i"].gates[:3]}
    write_gates(home, "toy-t2i", {**read_gates(home)["toy-t2i"], "figures": half})
    # What isn't there comes first.
    assert pending(home) == [name for name in RECIPES if not (home / name).exists()] + ["toy-vae", "toy-t2i"]
    assert missing_gates("toy-t2i", read_gates(home)["toy-t2i"]) == [gate.metric for gate in RECIPES["toy-t2i"].gates[3:]]


def test_the_queue_leaves_out_what_lacks_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def stand_in(name: str, **settings: object) -> str:
        if name in missing:
            raise MissingError(f"{name} needs a package")
        trained.append(name)
        return name

    monkeypatch.setattr("calotype.embedded.api.train", stand_in)
    missing: set[str] = {"recogniser", "toy-qsm"}
    assert train_pending(checkpoints=tmp_path, validate=False) == trained == [name for name in RECIPES if name not in missing]
    missing |= set(RECIPES)
    with pytest.raises(MissingError, match="needs a package"):
        train_pending(checkpoints=tmp_path, validate=False)


def test_a_model_without_its_foundation_says_what_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="calotype train toy-vae"):
        narrow.run("toy-t2i", tmp_path / "run", tmp_path / "checkpoints", "1steps")
