"""Checkpoints on disk: variants and shards load; what is missing, cut short, pickled or unknown is said in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calotype.backbones import hub, load, locate
from calotype.backbones.hub import choose_files, download
from calotype.core.guidance import NoGuidance
from calotype.errors import InputError, MissingError
from tests import tiny
from tests.tolerance import ENDS, close, in_float64

UNET = "diffusion_pytorch_model"


def _copy(kind: str, to: Path) -> Path:
    return Path(shutil.copytree(tiny.cached(kind), to))


def _estimate(folder: Path, **arguments: str) -> torch.Tensor:
    model = in_float64(load(folder, device="cpu", **arguments))
    denoise = model.denoiser({"cond": model.condition("a red ball")}, NoGuidance())
    x = torch.randn(1, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))
    return denoise(3 * x, 3.0)


def test_shards_and_variant_files_load_and_say_the_same(tmp_path: Path) -> None:
    single = _estimate(tiny.cached("toy-t2i"))
    sharded = tiny.tiny_toy_t2i(tmp_path / "sharded", max_shard_size="300KB")
    assert (sharded / "unet" / f"{UNET}.safetensors.index.json").is_file()
    close(_estimate(sharded), single, depth=ENDS)

    half = tiny.tiny_toy_t2i(tmp_path / "half", variant="fp16")
    assert not (half / "unet" / f"{UNET}.safetensors").exists()
    assert {part.variant for part in locate(half).checkpoint.parts.values() if part.weights} == {"fp16"}
    found = _estimate(half)
    assert found.dtype == torch.float32
    assert 0 < (found - single).abs().max() < 0.02

    half_shards = tiny.tiny_toy_t2i(tmp_path / "half-shards", variant="fp16", max_shard_size="300KB")
    assert (half_shards / "unet" / f"{UNET}.safetensors.index.fp16.json").is_file()
    close(_estimate(half_shards, variant="fp16"), found, depth=ENDS)


def test_the_variant_that_fits_the_precision_is_chosen(tmp_path: Path) -> None:
    folder = tiny.tiny_toy_t2i(tiny.tiny_toy_t2i(tmp_path / "both"), variant="fp16")
    unet = {half: locate(folder, half=half).checkpoint.parts["unet"].variant for half in (False, True)}
    assert unet == {False: None, True: "fp16"}
    assert load(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(MissingError, match="no 'ema' weight files"):
        locate(folder, variant="ema")


def _remove_weights(folder: Path) -> None:
    (folder / "unet" / f"{UNET}.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "vae" / f"{UNET}.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _empty_weights(folder: Path) -> None:
    (folder / "vae" / f"{UNET}.safetensors").write_bytes(b"")


def _no_safetensors(folder: Path) -> None:
    (folder / "vae" / f"{UNET}.safetensors").write_bytes(b"\x10" + bytes(7) + b"<html>not found</html>")


def _remove_config(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def _remove_merges(folder: Path) -> None:
    (folder / "tokenizer" / "merges.txt").unlink()


def _remove_scheduler(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove_weights, rf"unet/{UNET}.safetensors is missing"),
        (_cut_weights, rf"vae/{UNET}.safetensors is cut short at \d+ of \d+ bytes"),
        (_empty_weights, rf"vae/{UNET}.safetensors is cut short at 0 bytes"),
        (_no_safetensors, rf"vae/{UNET}.safetensors is no safetensors file"),
        (_remove_config, "unet/config.json is missing"),
        (_remove_merges, "tokenizer/merges.txt is missing"),
        (_remove_scheduler, "scheduler/scheduler_config.json is missing"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_line(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    folder = _copy("toy-t2i", tmp_path / "model")
    damage(folder)
    with pytest.raises(MissingError, match=said) as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny.tiny_toy_t2i(tmp_path / "sharded", max_shard_size="300KB")
    shard = sorted((folder / "unet").glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(MissingError, match=f"unet/{shard.name} is missing"):
        locate(folder)


def test_a_text_encoder_beside_a_video_model_is_found_named_or_not(tmp_path: Path) -> None:
    folder = _copy("toy-i2v", tmp_path / "model")
    assert "text_encoder" not in json.loads((folder / "model_index.json").read_text())
    assert {"text_encoder", "tokenizer"} <= set(locate(folder).checkpoint.parts)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert {"text_encoder", "tokenizer"} <= set(locate(folder).checkpoint.parts)
    assert "text_encoder" not in locate(tiny.cached("svd")).checkpoint.parts
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"text_encoder/model.safetensors is missing"):
        locate(folder)


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copy("toy-t2i", tmp_path / "model")
    for path, key in [(folder / "unet" / f"{UNET}.safetensors", "conv_out.weight"), (folder / "text_encoder" / "model.safetensors", None)]:
        whole = path.read_bytes()
        weights = load_file(path)
        weights.pop(key or next(name for name in weights if name.endswith("token_embedding.weight")))
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match="1 tensors are missing in its weight files"):
            load(folder, device="cpu")
        path.write_bytes(whole)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _copy("toy-t2i", tmp_path / "model")
    (folder / "unet" / f"{UNET}.safetensors").rename(folder / "unet" / f"{UNET}.bin")
    with pytest.raises(InputError, match=r"pickled weights only.*safe_serialization"):
        load(folder, device="cpu")


def test_folders_that_no_role_reads_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither model_index.json nor config.json"):
        locate(tmp_path / "empty")
    other = _copy("toy-t2i", tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(InputError, match=r"is a FluxPipeline; calotype reads StableDiffusionPipeline"):
        locate(other)
    (other / "model_index.json").write_text("[1")
    with pytest.raises(InputError, match="is no JSON"):
        locate(other)
    with pytest.raises(InputError, match="alone, calotype reads Dinov2Model, AutoencoderKL, VQModel folders only"):
        locate(other / "unet")
    with pytest.raises(InputError, match="is a file"):
        locate(other / "model_index.json")


def test_unknown_names_list_near_misses() -> None:
    for name, said in [
        ("toy_i2v", r"no model 'toy_i2v'; did you mean .*toy-i2v"),
        ("stable-video-diffusion-img2vid-xt", r"did you mean stabilityai/stable-video-diffusion-img2vid-xt"),
        ("gibberish", r"no model 'gibberish'; `calotype models` lists all"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            load(name)
        assert "\n" not in str(caught.value)


def test_a_hub_checkpoint_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "stabilityai/stable-video-diffusion-img2vid-xt"
    with pytest.raises(MissingError, match=rf"not on this machine \(\d+ MB in all, licence: Stability.*`calotype models get {name}`"):
        load(name)
    with pytest.raises(MissingError, match=r"did you mean stabilityai/stable-video-.*models get stabilityai/"):
        load("stabilityai/stable-video-diffusion")


def _into_cache(cache: Path, name: str, folder: Path) -> Path:
    """Lay a folder into a hub cache as the hub's client does: blobs, links in a snapshot, a reference."""
    home = cache / ("models--" + name.replace("/", "--"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        import hashlib

        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = home / "snapshots" / commit / path.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(blob)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


def test_a_hub_id_loads_from_the_cache_and_half_of_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.backbones import checkpoint_hash, describe

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "stabilityai/stable-video-diffusion-img2vid"
    snapshot = _into_cache(tmp_path, name, tiny.cached("svd"))
    model = load(name, device="cpu")
    assert describe(model)["revision"] == snapshot.name
    assert "Stability" in describe(model)["licence"]
    assert checkpoint_hash(model) == checkpoint_hash(load(tiny.cached("svd"), device="cpu"))
    assert load(name, device="cpu", revision=snapshot.name).source.revision == snapshot.name
    with pytest.raises(MissingError, match="--revision other"):
        load(name, device="cpu", revision="other")

    (snapshot / "unet" / f"{UNET}.safetensors").resolve().unlink()
    said = rf"incomplete: unet/{UNET}.safetensors is missing; run `calotype models get {name}` \(\d+ MB in all, licence"
    with pytest.raises(MissingError, match=said):
        load(name, device="cpu")


def test_a_snapshot_that_no_branch_names_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "owner/small"
    snapshot = _into_cache(tmp_path, name, tiny.cached("toy-t2i"))
    reference = snapshot.parents[1] / "refs" / "main"
    for damage in (reference.unlink, lambda: reference.write_text("f" * 40), lambda: reference.write_text("../../blobs")):
        damage()
        found = locate(name)
        assert (found.revision, found.checkpoint.folder) == (snapshot.name, snapshot)
        assert f"its only one is used, {snapshot.name}" in found.note
    caplog.clear()
    assert load(name, device="cpu").source.revision == snapshot.name
    assert [record.getMessage() for record in caplog.records] == [found.note]
    assert not locate(name, revision=snapshot.name).note

    (snapshot.parent / ("1" * 40)).mkdir()
    with pytest.raises(InputError, match=rf"2 snapshots of {name} .*: {snapshot.name}, 1{{40}}; choose one with --revision"):
        locate(name)
    assert locate(name, revision=snapshot.name).checkpoint.folder == snapshot
    with pytest.raises(MissingError, match="--revision main"):
        locate(name, revision="main")
    shutil.rmtree(snapshot)
    with pytest.raises(InputError, match=r"neither model_index.json nor config.json"):
        locate(name)


ALIKE = [
    ("sd", "StableDiffusionImg2ImgPipeline", "StableDiffusion"),
    ("sd", "StableDiffusionInpaintPipeline", "StableDiffusion"),
    ("sd21", "StableDiffusionImg2ImgPipeline", "StableDiffusion"),
    ("sdxl", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXL"),
    ("sdxl", "StableDiffusionXLInpaintPipeline", "StableDiffusionXL"),
]


@pytest.mark.parametrize(("kind", "pipeline", "adapter"), ALIKE)
def test_pipelines_of_the_same_parts_are_read_as_their_base(kind: str, pipeline: str, adapter: str, tmp_path: Path) -> None:
    import diffusers

    folder = _copy(kind, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    made = load(folder, device="cpu")
    assert (type(made).__name__, made.role) == (adapter, "TextToImage")
    assert set(choose_files([str(path.relative_to(folder)) for path in folder.rglob("*")], index | {"_class_name": pipeline}, None)) > {
        "model_index.json",
        f"unet/{UNET}.safetensors",
    }
    base = load(tiny.cached(kind), device="cpu")
    borrowed = load(getattr(diffusers, pipeline).from_pretrained(folder, local_files_only=True))
    x = 3 * torch.randn(1, *base.latent_shape(), generator=torch.Generator().manual_seed(0))
    estimates = [model.denoiser({"cond": model.condition("a red ball")}, NoGuidance())(x, 3.0) for model in (base, made, borrowed)]
    assert torch.equal(estimates[0], estimates[1])
    assert torch.allclose(estimates[0], estimates[2], atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "said"),
    [(9, "inpainting checkpoint, which sees a mask"), (8, "edits by instruction"), (5, "depth map"), (6, "role")],
)
@pytest.mark.parametrize("pipeline", ["StableDiffusionPipeline", "StableDiffusionInpaintPipeline"])
def test_networks_with_more_input_channels_are_refused_with_the_reason(channels: int, said: str, pipeline: str, tmp_path: Path) -> None:
    import diffusers

    config = {**tiny._SD15_UNET, "in_channels": channels}
    folder = tiny._stable_diffusion(tmp_path / "model", scheduler="pndm", unet=config, width=64)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    with pytest.raises(InputError, match=rf"takes {channels} input channels where text-to-image takes 4.*{said}"):
        locate(folder)
    with pytest.raises(InputError, match=said):
        load(getattr(diffusers, pipeline).from_pretrained(folder, local_files_only=True))


def test_a_refiner_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = _copy("sdxl", tmp_path / "refiner")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True, "text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"SDXL refiner.*give the base checkpoint"):
        load(folder)


def test_a_tokenizer_never_gives_more_tokens_than_its_encoder_reads(tmp_path: Path) -> None:
    folder = _copy("toy-t2i", tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer_config.json"
    for length in (10**30, None):
        config = json.loads(path.read_text()) | {"model_max_length": length}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
        assert load(folder, device="cpu").condition("a red ball " * 30).tensors["text"].shape[1] == 24


def test_a_tokenizer_without_padding_is_refused_before_it_is_used(tmp_path: Path) -> None:
    folder = _copy("toy-t2i", tmp_path / "model")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / "tokenizer" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    with pytest.raises(InputError, match=r"can't be read \(ValueError: .*padding token"):
        load(folder, device="cpu")


def test_an_embedded_model_without_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CHECKPOINTS", tmp_path)
    with pytest.raises(MissingError, match=r"toy-vae has no weights in this installation.*`calotype train toy-vae`"):
        load("toy-vae")
    shutil.copytree(tiny.cached("toy-vae"), tmp_path / "toy-vae")
    model = load("toy-vae", device="cpu")
    assert (model.name, model.role, model.source.licence, model.source.embedded) == ("toy-vae", "Autoencoder", "Apache-2.0", True)


SVD_FILES = [
    ".gitattributes",
    "LICENSE.md",
    "README.md",
    "model_index.json",
    "svd_xt.safetensors",
    "svd_xt_image_decoder.safetensors",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    *(
        f"{part}/{file}"
        for part, stem in [("image_encoder", "model"), ("unet", UNET), ("vae", UNET)]
        for file in ("config.json", f"{stem}.fp16.safetensors", f"{stem}.safetensors")
    ),
]


def test_a_download_takes_one_variant_of_the_parts_and_nothing_else() -> None:
    index = json.loads((tiny.cached("svd") / "model_index.json").read_text())
    fixed = {
        "LICENSE.md",
        "README.md",
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "image_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
    }
    half = {"image_encoder/model.fp16.safetensors", f"unet/{UNET}.fp16.safetensors", f"vae/{UNET}.fp16.safetensors"}
    assert set(choose_files(SVD_FILES, index, None)) == set(choose_files(SVD_FILES, index, "fp16")) == fixed | half
    plain = [file for file in SVD_FILES if ".fp16." not in file]
    assert set(choose_files(plain, index, None)) == fixed | {file.replace(".fp16", "") for file in half}

    sharded = [file for file in plain if not file.startswith("unet/")] + ["unet/config.json", f"unet/{UNET}.safetensors.index.json"]
    shards = [f"unet/{UNET}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    marked = [f"unet/{UNET}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)] + [f"unet/{UNET}.safetensors.index.fp16.json"]
    assert {*shards, f"unet/{UNET}.safetensors.index.json"} <= set(choose_files(sharded + shards, index, None))
    assert set(choose_files(sharded + shards + marked, index, "fp16")) & {*shards, *marked} == set(marked)
    both = {*choose_files(sharded + shards + marked, index, "plain")} & {*shards, *marked}
    assert both == set(shards)
    old = [f"unet/{UNET}.non_ema.safetensors", f"unet/{UNET}-00001-of-00001.fp16.safetensors"]
    assert set(old) & set(choose_files(sharded + shards + old, index, "fp16")) == set(old[1:])
    with pytest.raises(InputError, match="no safetensors files for unet"):
        choose_files([file for file in plain if not file.startswith("unet/")], index, None)
    with pytest.raises(InputError, match="holds a FluxPipeline"):
        choose_files(SVD_FILES, {"_class_name": "FluxPipeline"}, None)


def test_a_download_without_network_or_of_a_wrong_name_has_its_line() -> None:
    with pytest.raises(InputError, match="part of calotype"):
        download("toy-i2v")
    with pytest.raises(InputError, match="is no hub id"):
        download("svd")
    with pytest.raises(MissingError, match=r"could not be fetched \(HF_HUB_OFFLINE is set\)"):
        download("stabilityai/stable-video-diffusion-img2vid")


def test_looking_for_a_checkpoint_imports_nothing_heavy() -> None:
    code = (
        "import sys; from calotype.backbones import locate; "
        f"size = locate({str(tiny.cached('svd'))!r}).checkpoint.bytes; "
        "print(size, [name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, heavy = run.stdout.split(maxsplit=1)
    assert int(size) > 1_000_000
    assert heavy.strip() == "[]"
