"""Every key of every scheduler config of diffusers is used, of no meaning, or refused; what is used equals diffusers' own levels."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.backbones import load
from calotype.backbones import scheduler_config as known
from calotype.backbones.model_sampling import ModelSampling
from calotype.core.noise import noise
from calotype.core.samplers import dpmpp_2m_step, euler_step
from calotype.errors import InputError
from tests.tiny import cached

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000, "steps_offset": 1}
PLAYGROUND = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "prediction_type": "epsilon", "num_train_timesteps": 1000,
}  # fmt: skip
COSXL = {
    "sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "sigma_schedule": "exponential", "prediction_type": "v_prediction",
}  # fmt: skip
SHAPE = (2, 3, 5, 4)


def written() -> dict[str, dict[str, Any]]:
    """Scheduler class -> the keys that it registers and their defaults, read from diffusers' sources: some need packages to be imported."""
    found: dict[str, dict[str, Any]] = {}
    folder = Path(inspect.getfile(diffusers.schedulers)).parent
    for path in sorted(folder.rglob("scheduling_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for part in node.body:
                if not isinstance(part, ast.FunctionDef) or part.name != "__init__":
                    continue
                if "register_to_config" not in {ast.unparse(decorator) for decorator in part.decorator_list}:
                    continue
                names = [argument.arg for argument in (*part.args.args, *part.args.kwonlyargs) if argument.arg != "self"]
                values = [None] * (len(names) - len(part.args.defaults)) + [ast.unparse(value) for value in part.args.defaults]
                found[node.name] = dict(zip(names, values, strict=True))
    return found


WRITTEN = written()


def test_every_scheduler_of_diffusers_is_read_or_refused_by_name() -> None:
    assert len(WRITTEN) > 40
    kinds = (known.VARIANCE_PRESERVING, known.EDM, frozenset(known.REFUSED))
    assert {name: sum(name in kind for kind in kinds) for name in WRITTEN} == dict.fromkeys(WRITTEN, 1)
    assert set().union(*kinds) <= set(WRITTEN), "a class that diffusers no longer has"


@pytest.mark.parametrize("name", sorted(known.VARIANCE_PRESERVING | known.EDM))
def test_every_key_is_classified_once(name: str) -> None:
    for key in WRITTEN[name]:
        kinds = (known.USED | known.USED_EDM, frozenset(known.IRRELEVANT), frozenset(known.ONLY))
        assert sum(key in kind for kind in kinds) == 1, f"{name}: {key} is new: say in scheduler_config.py what becomes of it"


@pytest.mark.parametrize("name", sorted(known.VARIANCE_PRESERVING | known.EDM))
def test_defaults_are_those_of_the_class(name: str) -> None:
    everywhere = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon", "steps_offset": 0}
    everywhere |= {"rescale_betas_zero_snr": False, "num_train_timesteps": 1000, "final_sigmas_type": "zero", "trained_betas": None}
    everywhere |= {"sigma_min": None, "sigma_max": None, "timestep_type": "discrete"}
    everywhere |= {f"use_{kind}_sigmas": False for kind in ("karras", "exponential", "beta")}
    taken = everywhere | dict(known.DEFAULTS.get(name, {}))
    for key in (known.USED | known.USED_EDM) & set(WRITTEN[name]) - {"timestep_spacing"}:
        assert taken[key] == ast.literal_eval(WRITTEN[name][key]), key


@pytest.mark.parametrize("name", sorted(known.VARIANCE_PRESERVING | known.EDM))
def test_a_fresh_scheduler_of_each_class_is_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    if name == "DPMSolverSDEScheduler":
        config = {key: ast.literal_eval(value) for key, value in WRITTEN[name].items()}
    else:
        config = dict(getattr(diffusers, name)().config)
    sigmas = ModelSampling(config, name).sigmas(5)
    assert sigmas.shape == (6,)
    assert float(sigmas[-1]) == 0
    assert not caplog.records


@pytest.mark.parametrize("name", sorted(known.REFUSED))
def test_other_schedulers_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"the checkpoint's scheduler is {name}: its networks"):
        ModelSampling({}, name)


def test_a_scheduler_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="is MyScheduler: calotype doesn't know it; those read are DDIM"):
        ModelSampling(LATENT, "MyScheduler")


REFUSALS = [
    ({"use_flow_sigmas": True}, "use_flow_sigmas True"),
    ({"use_lu_lambdas": True}, "use_lu_lambdas True"),
    ({"use_dynamic_shifting": True}, "use_dynamic_shifting True"),
    ({"thresholding": True}, "thresholding True"),
    ({"interpolation_type": "log_linear"}, "interpolation_type 'log_linear'"),
    ({"variance_type": "learned_range"}, "variance_type 'learned_range'"),
    ({"lambda_min_clipped": -5.1}, "lambda_min_clipped -5.1"),
    ({"snr_shift_scale": 3.0}, "snr_shift_scale 3.0"),
    ({"shift_terminal": 0.1}, "shift_terminal 0.1"),
    ({"sigma_data": 0.5}, "sigma_data 0.5"),
    ({"sigma_schedule": "exponential"}, "sigma_schedule 'exponential'"),
    ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
    ({"prediction_type": "trigflow"}, "prediction_type 'trigflow'"),
    ({"prediction_type": "epsilon", "timestep_type": "continuous"}, "continuous timesteps"),
    ({"timestep_spacing": "uniform"}, "timestep_spacing 'uniform'"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
    ({"final_sigmas_type": "first"}, "final_sigmas_type 'first'"),
    ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_karras_sigmas and use_beta_sigmas"),
    ({"use_karras_sigmas": "false"}, "use_karras_sigmas 'false'"),
    ({"beta_start": "0.1"}, "beta_start '0.1'"),
    ({"beta_end": float("nan")}, "beta_end nan"),
    ({"num_train_timesteps": 10**12}, "num_train_timesteps 1000000000000"),
    ({"num_train_timesteps": 999.5}, "num_train_timesteps 999.5"),
    ({"steps_offset": -1}, "steps_offset -1"),
    ({"trained_betas": ["a", "b"]}, "trained_betas"),
    ({"trained_betas": [0.1]}, "trained_betas"),
]


@pytest.mark.parametrize(("change", "named"), REFUSALS, ids=[next(iter(change)) for change, _ in REFUSALS])
def test_what_a_run_would_not_follow_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as refused:
        ModelSampling(LATENT | change, "EulerDiscreteScheduler")
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sigma_data": 0}, "sigma_data 0"),
        ({"sigma_min": 90.0}, "sigma_min is 90"),
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"sigma_schedule": "linear"}, "sigma_schedule 'linear'"),
        ({"thresholding": True}, "thresholding True"),
    ],
)
def test_what_an_edm_run_would_not_follow_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as refused:
        ModelSampling(PLAYGROUND | change, "EDMEulerScheduler")
    assert named in str(refused.value)


def test_unknown_settings_are_noted_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    ModelSampling({**LATENT, "_class_name": "PNDMScheduler", "tensor_format": "pt", "wobble": 3, "jitter": 1}, "PNDMScheduler")
    assert [record.getMessage() for record in caplog.records] == [
        "the checkpoint's PNDMScheduler has settings that calotype doesn't know and leaves out: jitter, wobble"
    ]


def network(z: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.8 * z + 0.3 * z.roll(1, -1) + 0.001 * float(t)) - 0.4 * z.roll(1, 1)


def assert_follows(config: dict[str, Any], name: str, n: int) -> None:
    """Levels, start, and each step of Euler equal those of diffusers' scheduler."""
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(n)
    ours = ModelSampling(scheduler.config, name)
    table = ours.sigmas(n)
    theirs = scheduler.sigmas.double()
    theirs = theirs[:-1] if float(theirs[-1]) == float(theirs[-2]) else theirs
    assert table.shape == theirs.shape
    assert ((table - theirs).abs() <= 1e-5 * (1 + table)).all()
    assert ours.init_noise_sigma(float(table[0])) == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-5)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        output = network(ours.preconditioner.scale_input(x, sigma), ours.preconditioner.timestep(sigma))
        return ours.preconditioner.estimate(x, output, sigma)

    for k, t in enumerate(scheduler.timesteps[: len(table) - 1]):
        sigma, sigma_next = float(table[k]), float(table[k + 1])
        x = noise(SHAPE, 1) + sigma * noise(SHAPE, 2, k)
        stepped = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        assert float((euler_step(denoise, x, sigma, sigma_next).x - stepped).abs().max()) <= 1e-5 * (1 + sigma)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("respaced", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", None])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_table_of_levels_equals_diffusers(spacing: str, respaced: str | None, prediction: str) -> None:
    config = LATENT | {"timestep_spacing": spacing, "prediction_type": prediction} | ({respaced: True} if respaced else {})
    assert_follows(config, "EulerDiscreteScheduler", 9)
    assert_follows(config | {"final_sigmas_type": "sigma_min", "steps_offset": 0}, "EulerDiscreteScheduler", 9)


@pytest.mark.parametrize("respaced", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("ends", [{"sigma_min": 0.05}, {"sigma_max": 10.0}, {"sigma_min": 0.05, "sigma_max": 10.0}])
def test_ends_in_the_config_are_used_alone_and_together(respaced: str, ends: dict[str, float]) -> None:
    assert_follows(LATENT | {respaced: True, "timestep_spacing": "leading"} | ends, "EulerDiscreteScheduler", 8)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_rescaled_betas_equal_diffusers(beta_schedule: str, spacing: str) -> None:
    config = {
        "beta_schedule": beta_schedule,
        "rescale_betas_zero_snr": True,
        "timestep_spacing": spacing,
        "prediction_type": "v_prediction",
    }
    assert_follows(config, "EulerDiscreteScheduler", 10)


def test_trained_betas_equal_diffusers() -> None:
    assert_follows({"trained_betas": torch.linspace(0.001, 0.02, 400).tolist(), "num_train_timesteps": 400}, "EulerDiscreteScheduler", 10)


def test_what_a_file_leaves_out_is_the_default_of_its_own_class() -> None:
    theirs = diffusers.HeunDiscreteScheduler()
    theirs.set_timesteps(6)
    ours = ModelSampling({}, "HeunDiscreteScheduler").sigmas(6, "heun")
    assert torch.allclose(ours.float(), torch.cat([theirs.sigmas[:1], theirs.sigmas[1::2]]), rtol=1e-5)
    assert ModelSampling({}, "EDMEulerScheduler").preconditioner.sigma_data == 0.5


@pytest.mark.parametrize("config", [PLAYGROUND, COSXL, PLAYGROUND | {"prediction_type": "v_prediction"}, COSXL | {"sigma_data": 0.7}])
@pytest.mark.parametrize("n", [3, 25])
def test_edm_euler_equals_diffusers(config: dict[str, Any], n: int) -> None:
    assert_follows(config, "EDMEulerScheduler", n)
    assert_follows(config | {"final_sigmas_type": "sigma_min"}, "EDMEulerScheduler", n)


@pytest.mark.parametrize("config", [PLAYGROUND, COSXL])
@pytest.mark.parametrize("n", [8, 20])
def test_edm_dpmpp_2m_equals_diffusers(config: dict[str, Any], n: int) -> None:
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(**config)
    scheduler.set_timesteps(n)
    ours = ModelSampling(config, "EDMDPMSolverMultistepScheduler")
    table, history = ours.sigmas(n, "dpmpp_2m"), {}
    assert ((table - scheduler.sigmas.double()).abs() <= 1e-5 * (1 + table)).all()
    assert ours.init_noise_sigma(float(table[0]), "dpmpp_2m") == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-5)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        output = network(ours.preconditioner.scale_input(x, sigma), ours.preconditioner.timestep(sigma))
        return ours.preconditioner.estimate(x, output, sigma)

    for k, t in enumerate(scheduler.timesteps):
        sigma, sigma_next = float(table[k]), float(table[k + 1])
        x = noise(SHAPE, 1) + sigma * noise(SHAPE, 2, k)
        theirs = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        stepped = dpmpp_2m_step(denoise, x, sigma, sigma_next, history)
        assert float((stepped.x - theirs).abs().max()) <= 1e-5 * (1 + sigma)
        history = dict(stepped.history)


@settings(max_examples=50, deadline=None)
@given(
    sigma=st.floats(0.002, 120.0),
    sigma_data=st.floats(0.1, 2.0),
    prediction=st.sampled_from(["epsilon", "v_prediction"]),
    name=st.sampled_from(sorted(known.EDM)),
)
def test_edm_preconditioning_equals_diffusers_and_its_target_is_exact(sigma: float, sigma_data: float, prediction: str, name: str) -> None:
    config = {"sigma_data": sigma_data, "prediction_type": prediction, "sigma_max": 120.0}
    scheduler, ours = getattr(diffusers, name)(**config), ModelSampling(config, name).preconditioner
    x0, n = sigma_data * noise(SHAPE, 1), noise(SHAPE, 2)
    x, output = x0 + sigma * n, noise(SHAPE, 3)
    bound = 1e-5 * (1 + sigma)
    assert float((ours.scale_input(x, sigma) - scheduler.precondition_inputs(x, sigma)).abs().max()) <= bound
    assert ours.timestep(sigma) == pytest.approx(float(scheduler.precondition_noise(sigma)), abs=1e-5)
    assert float((ours.estimate(x, output, sigma) - scheduler.precondition_outputs(x, output, sigma)).abs().max()) <= bound
    assert float((ours.estimate(x, ours.target(x0, n, sigma), sigma) - x0).abs().max()) <= bound


def test_playground_as_a_folder_equals_the_pipeline(tmp_path: Path) -> None:
    import json
    import shutil

    from diffusers import EDMEulerScheduler, StableDiffusionXLPipeline

    from calotype.core.guidance import ClassifierFreeGuidance
    from calotype.core.noise import batch_noise
    from calotype.core.samplers import sample

    folder = tmp_path / "playground"
    shutil.copytree(cached("sdxl"), folder)
    for file, changes in (
        ("model_index.json", {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]}),
        ("vae/config.json", {"scaling_factor": 0.5, "latents_mean": [-0.5, 0.1, 0.2, -0.1], "latents_std": [1.5, 1.2, 0.9, 1.1]}),
    ):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMDPMSolverMultistepScheduler", **PLAYGROUND}))

    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.scheduler = EDMEulerScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    model = load(folder, device="cpu")
    latents = batch_noise(model.latent_shape((64, 64)), seed=5, count=1)
    theirs = pipeline(
        "a red ball", height=64, width=64, num_inference_steps=10, guidance_scale=3.0, latents=latents, output_type="pt"
    ).images
    condition = model.condition("a red ball", size=(64, 64))
    denoise = model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, ClassifierFreeGuidance(3.0))
    for loaded in (model, load(pipeline)):
        sigmas = loaded.sigmas(10)
        ours = model.decode(sample(denoise, latents * loaded.init_noise_sigma(sigmas), sigmas))
        assert ours.std() > 0.02
        assert float((ours - theirs).abs().max()) <= 1e-4
