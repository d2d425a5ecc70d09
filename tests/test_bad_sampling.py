"""Bad losses, solvers, plans and observations: each is a ValueError that says how to mend it."""

from __future__ import annotations

import pytest
import torch
from refused import BOX, FIELD, NAN, ORACLE, SDE, T, X, cells, draw, model, net, refused, seeded, stages

from fnodiff import (
    DDIM,
    EDM,
    VP,
    AnnealedLangevin,
    Cascade,
    ClassifierFree,
    DenoisingLoss,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    Heun,
    Model,
    MomentMatching,
    PointObservation,
    PredictorCorrector,
    Progressive,
    Sphere,
    upscale,
)
from fnodiff.inverse import DPS, Masked, PiGDM
from fnodiff.sde import Autoguided, EvenRho, GaussianDenoiser, Normalization, ReplaceModes, Stage, Wrapper, run


class Narrow(Wrapper):
    """A user's denoiser that loses an axis."""

    def forward(self, x_t, t, **condition):
        return self.denoiser(x_t, t, **condition)[..., :1]


# What is wrong, what it says.
CALLS = {
    # losses and samplers
    "a law without spread": (lambda: DenoisingLoss(model(), p_std=0.0), r"p_std > 0"),
    "a law beyond the schedule": (lambda: DenoisingLoss(model(), 40.0, 0.1)(X), r"choose p_mean between"),
    "a mask of other grids": (lambda: DenoisingLoss(model())(X, mask=torch.ones(2, 1, 8, 8)), r"data's grid"),
    "nothing measured": (lambda: DenoisingLoss(model())(X, mask=torch.zeros(2, 1, 16, 16)), r"empty mask"),
    "a loss of no model": (lambda: DenoisingLoss(ORACLE), r"Model\(network, sde, EDMScaling\(\)\)"),
    "conditions dropped always": (lambda: DenoisingLoss(model(), drop_condition=1.0), r"0.1 is usual"),
    "a network for a denoiser": (lambda: draw(net()), r"Model\(network, sde, EDMScaling\(\)\)"),
    "a network to upscale by": (lambda: upscale(net(), X, (32, 32), [0, 1]), r"Model\(network, sde"),
    "a network to wrap": (lambda: ClassifierFree(net(), 2.0), r"Model\(network, sde, EDMScaling\(\)\)"),
    "channels that nobody knows": (
        lambda: draw(Model(torch.nn.Identity(), SDE, EDMScaling())),
        r"make it with channels=",
    ),
    "a denoiser that loses an axis": (
        lambda: draw(Narrow(ORACLE)),
        r"expected Narrow to return \(1, 1, 16, 16\).*16, 1\);",
    ),
    "a solver by name": (lambda: draw(solver="heun"), r"got 'heun'; a solver holds no denoiser"),
    "a class as the solver": (lambda: draw(solver=Heun), r"such as DPMSolver\(12\).*a solver holds no denoiser"),
    "a denoiser as the solver": (lambda: upscale(ORACLE, X, 32, [0, 1], solver=ORACLE), r"a solver holds no denoiser"),
    "no steps": (lambda: Heun(0), r"18 is usual"),
    "half a step": (lambda: DPMSolver(2.5), r"steps >= 1"),
    "a denoiser for the steps": (lambda: DPMSolver(ORACLE, 12), r"steps >= 1"),
    "spacing by name": (lambda: DDIM(4, spacing="log_snr"), r"EvenLogSNR\(\), got 'log_snr'"),
    "alpha that underflows": (lambda: VP(beta_max=1e3), r"VP: expected beta_min \+ beta_max of at most 340"),
    "spacing of a power below nothing": (lambda: EvenRho(0.0), r"rho from 0.1 to 100"),
    "more than all noise": (lambda: DDIM(4, eta=2.0), r"eta in \[0, 1\]"),
    "less than no noise": (lambda: DPMSolver(4, eta=-0.1), r"eta in \[0, 1\]"),
    "churn below none": (lambda: Heun(4, churn=-1.0), r"0 is no churn"),
    "a signal below all noise": (lambda: AnnealedLangevin(4, snr=0.0), r"0.16 is usual"),
    "no corrections": (lambda: PredictorCorrector(4, corrections=0), r"corrections >= 1"),
    "a predictor by name": (lambda: PredictorCorrector(4, predictor="ddim"), r"such as EulerMaruyama\(\)"),
    "batches of no samples": (lambda: draw(batch=0), r"sample: expected batch >= 1"),
    "seeds by name": (lambda: draw(seeds=["one"]), r"whole numbers.*got \['one'\]; pass such as seeds=range"),
    "half a seed": (lambda: draw(seeds=[0.5]), r"whole numbers.*seeds=range"),
    "no seeds": (lambda: draw(seeds=[]), r"at least one.*seeds=range"),
    "nothing for seeds": (lambda: draw(seeds=None), r"whole numbers.*seeds=range"),
    "seeds in a table": (lambda: draw(seeds=[[0, 1], [2, 3]]), r"whole numbers.*seeds=range"),
    "a generator for seeds": (lambda: draw(seeds=seeded()), r"whole numbers.*seeds=range"),
    "labels for other seeds": (
        lambda: draw(seeds=[0, 1, 2], label=[0, 1]),
        r"label with one row for each of the 3 seeds, or one for all, got \(2,\); repeat or cut",
    ),
    "fields for other seeds": (lambda: draw(seeds=[0], field=X), r"field with one row for each of the 1 seeds"),
    "a condition that a denoiser does not take": (lambda: draw(label=0), r"expected no condition"),
    "a shape with channels": (lambda: draw(shape=(1, 16, 16)), r"2 positive sizes"),
    "grids for a plan": (lambda: draw(plan=[(8, 8)]), r"Progressive\(\[\(16, 16\)\]\)"),
    "times that rise": (lambda: Stage((16, 16), torch.linspace(0, 1, 3)), r"times that decrease.*noise first"),
    "a time twice": (lambda: Stage((16, 16), torch.tensor([1.0, 0.5, 0.5])), r"name each once"),
    "grids that fall": (lambda: draw(plan=Progressive([(16, 16), (8, 8)]), shape=(32, 32)), r"coarsest first"),
    "grids that are not within each other": (
        lambda: draw(plan=Progressive([(8, 32)])),
        r"Progressive: expected each grid to hold the one before, got \[\(8, 32\), \(16, 16\)\]",
    ),
    "grids beyond the samples'": (lambda: draw(plan=Cascade([(32, 32)])), r"none finer than the samples' \(16, 16\)"),
    "stages from nobody knows where": (lambda: draw(plan=Progressive()), r"name the grids: Progressive\("),
    "a cascade from nobody knows where": (lambda: draw(plan=Cascade()), r"name the grids: Cascade\("),
    "stages without a spectrum": (lambda: draw(model(), plan=Progressive([(8, 8)])), r"Model.for_data"),
    "a budget of nothing": (lambda: Progressive([(8, 8)], budget=0.0), r"1 is usual"),
    "a cascade that keeps nothing": (lambda: Cascade([(8, 8)], keep=0.0), r"1 holds all modes"),
    "a cascade that keeps more than all": (lambda: Cascade([(8, 8)], keep=1.5), r"1 holds all modes"),
    "a cascade through finer grids": (
        lambda: draw(plan=Cascade([(8, 8)], through=[(12, 12)])),
        r"expected each grid to hold the one before, got \[\(12, 12\), \(8, 8\)\]",
    ),
    "no stages": (lambda: run(ORACLE, DPMSolver(2), [], X), r"make them with a plan"),
    "stages that end elsewhere": (lambda: run(ORACLE, DPMSolver(2), stages((8, 8)), X), r"end on the grid \(16, 16\)"),
    "a stage that holds what is not there": (
        lambda: run(ORACLE, DPMSolver(2), [Stage((16, 16), torch.tensor([1.0, 0.0]), held=(8, 8))], X),
        r"low= for a first stage",
    ),
    "stages of two grids without a spectrum": (
        lambda: run(model(), DPMSolver(2), stages((8, 8), (16, 16)), X),
        r"pass spectrum= to the model, or one stage",
    ),
    "modes of other samples": (lambda: ReplaceModes(ORACLE, X[:1])(X, T), r"sample where the known modes fit"),
    "upscaling to a coarser grid": (
        lambda: upscale(ORACLE, X, (8, 8), [0, 1]),
        r"finer than \(16, 16\), got \(8, 8\); pass the shape",
    ),
    "upscaling to the same grid": (lambda: upscale(ORACLE, X, 16, [0, 1]), r"finer than \(16, 16\), got \(16, 16\)"),
    "upscaling one axis and cutting the other": (lambda: upscale(ORACLE, X, (64, 8), [0, 1]), r"finer than"),
    "upscaling two fields by three seeds": (
        lambda: upscale(ORACLE, X, (32, 32), [0, 1, 2]),
        r"one for each of the 3 seeds, got 2; pass as many seeds",
    ),
    "guidance without a condition": (lambda: ClassifierFree(ORACLE, 2.0)(X, T), r"label or field"),
    "guidance about what is not given": (
        lambda: ClassifierFree(ORACLE, 2.0, drop="field")(X, T, label=torch.zeros(2).long()),
        r"\['field'\], got \['label'\]; give them to `sample`",
    ),
    "guidance by another process": (
        lambda: Autoguided(ORACLE, GaussianDenoiser(FIELD, FunctionSpaceSDE(FIELD, EDM()))),
        r"train it as the model was",
    ),
    "guidance by other units": (
        lambda: Autoguided(model(), model(normalization=Normalization([1.0], [2.0]))),
        r"train it as the model was",
    ),
    "guidance from high noise to low": (
        lambda: Autoguided(ORACLE, ORACLE, noise_levels=(3.0, 0.3)),
        r"\(0.3, 3\) and 1.7 are usual",
    ),
    # observations
    "points off the box": (
        lambda: PointObservation(torch.full((2, 1), 1.5), torch.zeros(1, 1), 0.1)(X, BOX),
        r"give the Box its lengths",
    ),
    "points by rows": (lambda: PointObservation(torch.rand(5, 2), torch.zeros(1, 5), 0.1), r"transpose"),
    "grid indices as points": (
        lambda: PointObservation(torch.ones(2, 5).long(), torch.zeros(1, 5), 0.1),
        r"\(i \+ 0.5\)",
    ),
    "latitudes in degrees": (
        lambda: PointObservation(torch.tensor([[45.0], [0.0]]), torch.zeros(1, 1), 0.1)(X, Sphere()),
        r"colatitude = \(90 - latitude",
    ),
    "exact values": (lambda: cells(noise_std=0.0), r"hundredth"),
    "values that are not there": (lambda: cells(value=NAN), r"not measured"),
    "values without end": (lambda: cells(value=float("inf")), r"not measured"),
    "a mask of numbers": (lambda: Masked(torch.full((8, 8), 0.5), torch.zeros(1, 8, 8), 0.1), r"mask > 0.5"),
    "a tolerance of one": (lambda: MomentMatching(ORACLE, cells(), tolerance=1.0), r"\(0, 1\)"),
    "a scale of nothing": (lambda: DPS(ORACLE, cells(), scale=0.0), r"1 fits"),
    "an observation twice": (lambda: PiGDM(PiGDM(ORACLE, see := cells(), 1.0), see, 1.0), r"put both into one"),
    "observations of other samples": (
        lambda: draw(MomentMatching(ORACLE, cells((3,))), seeds=[0, 1]),
        r"one observation for each of the 2 samples",
    ),
    "a spread that nobody knows": (lambda: PiGDM(ORACLE, cells()), r"sigma_data > 0, got None; pass"),
    "no iterations": (lambda: MomentMatching(ORACLE, cells(), iterations=0), r"100 is usual"),
}


@pytest.mark.parametrize("case", CALLS)
def test_is_refused_with_the_mend(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[case])
    assert list(tmp_path.iterdir()) == []
