"""What the options of `fnodiff` mean, given on the command line or in a file."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from command import parsed, wavy

from fnodiff import (
    EDM,
    Box,
    Cascade,
    DPMSolver,
    EDMScaling,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    Product,
    Progressive,
    Sphere,
    Torus,
    WhiteNoise,
    checkpoint,
    sde,
)
from fnodiff.cli.arguments import seeds_of, sizes_of
from fnodiff.data import ArrayFields, write_fields
from fnodiff.train import Adam, Execution

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"


@pytest.mark.parametrize(
    ("options", "noise", "schedule", "scaling"),
    [
        ([], None, None, EDMScaling(0.5, True)),
        (["--noise", "white"], WhiteNoise(Box(2), (16, 16)), None, EDMScaling(0.5, True)),
        (["--noise", "pixel", "--no-linear-estimate"], PixelNoise(Box(2)), None, EDMScaling(0.5, False)),
        (["--noise", "matern"], GaussianRandomField(Box(2), Matern(0.5, 0.2)), None, EDMScaling(0.5, True)),
        (
            ["--noise", "matern", "--smoothness", 0.7, "--length-scale", 0.1, "--sigma-data", 1],
            GaussianRandomField(Box(2), Matern(0.7, 0.1)),
            None,
            EDMScaling(1.0, True),
        ),
        (["--noise", "rbf"], GaussianRandomField(Box(2), sde.RBF(0.2)), None, EDMScaling(0.5, True)),
        (["--sigma-max", 10], None, EDM(sigma_max=10.0), EDMScaling(0.5, True)),
        (["--schedule", "cosine", "--sigma-min", 0.1], None, sde.Cosine(sigma_min=0.1), EDMScaling(0.5, True)),
        (["--schedule", "sub-vp"], None, sde.SubVP(), EDMScaling(0.5, True)),
        (["--scaling", "spectral", "--cutoff", 8], None, None, sde.SpectralScaling((16, 16), 8.0)),
        (["--scaling", "spectral", "--linear-estimate"], None, None, sde.SpectralScaling((16, 16), 16.0, True)),
    ],
)
def test_the_options_of_a_model(options, noise, schedule, scaling):
    given = parsed("train", "pictures", *options)
    assert given["noise"].make_noise(Box(2), (16, 16)) == noise
    assert given["noise"].make_schedule() == schedule and given["scaling"].make((16, 16)) == scaling


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"hidden_channels": 16, "reference": (16, 16), "n_modes": (8, 8), "attention_levels": ()}),
        (["--n-modes", 6], {"n_modes": (6, 6)}),
        (["--n-modes", 6, 4, "--channel-mult", 1, 2, 1], {"n_modes": (6, 4), "channel_mult": (1, 2, 1)}),
        (["--levels", "moving", "--dropout", 0.5], {"reference": None, "dropout": 0.5}),
        (["--local", "none"], {"local": None}),
        (["--local", "operator", "--attention-levels", 0, 1], {"local": "operator", "attention_levels": (0, 1)}),
        (
            ["--rank", 0.5, "--num-blocks", 2],
            {"spectral": {"factorization": "ComplexTucker", "rank": 0.5}, "num_blocks": 2},
        ),
        (["--boundary", "periodic"], {"boundary": "periodic"}),
        (["--spectral-levels", 0, "--positional-modes", 0], {"spectral_levels": 0, "positional_modes": 0}),
    ],
)
def test_the_options_of_a_network(options, expected):
    network = parsed("train", "pictures", "--network", "tiny", *options)["network"].make()
    made = network(6, 3, domain=Box(2), reference=(16, 16), num_classes=0, condition_channels=0)
    assert {name: made.config[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "solver", "plan"),
    [
        ([], None, None),
        (["--steps", 5, "--eta", 0.5], DPMSolver(5, eta=0.5), None),
        (["--solver", "heun", "--churn", 5], Heun(18, churn=5.0), None),
        (["--solver", "ddim", "--spacing", "log-snr"], sde.DDIM(50, sde.EvenLogSNR()), None),
        (["--solver", "euler-maruyama"], sde.EulerMaruyama(200), None),
        (
            ["--solver", "langevin", "--snr", 0.2, "--corrections", 3],
            sde.AnnealedLangevin(100, corrections=3, snr=0.2),
            None,
        ),
        (["--solver", "predictor-corrector"], sde.PredictorCorrector(100), None),
        (["--spacing", "rho", "--rho", 3], DPMSolver(12, sde.EvenRho(3.0)), None),
        (["--plan", "direct"], None, sde.Direct()),
        (["--plan", "progressive", "--grids", 8, "12x8"], None, Progressive([(8, 8), (12, 8)])),
        (["--plan", "cascade", "--grids", 16, "--keep", 0.5], None, Cascade([(16, 16)], keep=0.5)),
        (["--plan", "cascade", "--no-through", "--budget", 2], None, Cascade(through=(), budget=2.0)),
    ],
)
def test_the_options_of_sampling(options, solver, plan):
    given = parsed("sample", "model", "--size", 16, *options)
    assert given["solver"].make() == solver and given["plan"].make(Box(2)) == plan


@pytest.mark.parametrize(
    ("grid", "options", "domain"),
    [
        ("cell averages", [], Box(2)),
        ("points", ["--domain", "torus", "--lengths", 1, 2], Torus(2, (1.0, 2.0))),
        ("points", ["--domain", "torus-box", "--lengths", 1, 2], Product([Torus(1), Box(1, (2.0,))])),
        ("cell averages", ["--domain", "box-torus"], Product([Box(1), Torus(1)])),
        ("points", ["--domain", "sphere-equiangular"], Sphere("equiangular")),
        ("points", ["--domain", "sphere-cell-centred"], Sphere("cell-centred")),
    ],
)
def test_the_domain_is_the_files_or_the_one_that_is_named(tmp_path, grid, options, domain):
    source, about = ArrayFields(torch.randn(4, 1, 8, 16), domain=Torus(2)), {"source": "here", "licence": "none"}
    write_fields(
        tmp_path / "f.h5", source, [(8, 16)], attributes={**about, "grid": grid}, progress=False, dtype="float32"
    )
    given = parsed("train", tmp_path / "f.h5", *options)
    assert given["domain"].make(given["data"], given["arrays"]) == domain


def test_defaults_are_the_librarys():
    from fnodiff.cli.train import GridOptions, OptimizerOptions, RunOptions

    assert OptimizerOptions().make() == Adam()
    fine = parsed("finetune", "model", "data", "--size", 32, "--steps", 1, "--clip", 2)
    assert fine["optimizer"].make() == Adam(lr=1e-4, clip=2.0) and fine["run"].out == Path("finetuned")
    assert RunOptions().save_every == Execution().save_every and RunOptions().workers == Execution().workers
    source = ArrayFields(torch.randn(4, 1, 8), domain=Box(1))
    assert GridOptions().batch == MultiResolution(source, Box(1), [8]).batch_size


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        (
            "ffhq_paper",
            "train",
            {"grids.batch": 256, "noise.noise": "pixel", "network.levels": "moving", "run.steps": 421_875},
        ),
        ("ffhq_paper", "train", {"grids.shapes": ("32", "48", "64", "80", "96"), "scaling.linear_estimate": False}),
        ("ffhq_paper", "finetune", {"weight": 0.3, "size": "160", "optimizer.lr": 1e-4}),
        ("ffhq_paper", "sample", {"solver.solver": "heun", "solver.steps": 18, "plan.plan": "direct"}),
        ("ffhq_paper", "evaluate", {"sizes": ("32", "48", "64", "80", "96", "128", "160", "192")}),
        ("lsun_church_paper", "train", {"data": "church.h5", "optimizer.ema_halflife": 500_000}),
        ("lsun_church_paper", "sample", {"solver.solver": "heun"}),
        ("portraits", "train", {"grids.shapes": ("16", "24", "32"), "network.n_modes": (8,)}),
        ("portraits", "sample", {"size": ("32", "64", "128")}),
        ("portraits", "evaluate", {"data": "portraits-test.h5"}),
    ],
)
def test_the_files_of_options_are_read(file, name, expected):
    positional = {"train": [], "finetune": ["model", "data"]}.get(name, ["model"])
    given = parsed(name, *positional, "--config", CONFIGS / f"{file}.toml")
    for key, value in expected.items():
        first, *rest = key.split(".")
        assert functools.reduce(getattr, rest, given[first]) == value, key


def test_the_portraits_file_says_what_is_chosen_anyway():
    """Its options make the model that a command makes with the width alone."""
    data = MultiResolution(ArrayFields(wavy(8, (32, 32)), domain=Box(2)), Box(2), [16, 24, 32])
    described = []
    for tokens in (
        ["train", "pictures", "--hidden-channels", "48"],
        ["train", "--config", str(CONFIGS / "portraits.toml")],
    ):
        given = parsed(*tokens)
        noise, scaling = given["noise"], given["scaling"].make((32, 32))
        chosen = {"noise": noise.make_noise(Box(2), (32, 32)), "schedule": noise.make_schedule(), "scaling": scaling}
        described.append(checkpoint.describe(Model.for_data(data, given["network"].make(), **chosen)))
    for network in (found["network"] for found in described):  # what a preset leaves out is the constructor's default
        network.setdefault("attention_levels", [2])
    assert described[0] == described[1]


def test_what_the_arguments_mean():
    assert seeds_of("0-3,7") == [0, 1, 2, 3, 7]
    assert sizes_of(["160x96", "32"]) == [(160, 96), (32,)] and sizes_of(["8"], Sphere()) == [(8, 16)]
