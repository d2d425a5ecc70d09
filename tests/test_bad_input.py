"""Bad input in one table: each raises a ValueError that says how to mend it, and changes nothing on disk."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from fnodiff import (
    DDIM,
    DFU,
    EDM,
    AnnealedLangevin,
    Box,
    Cascade,
    ClassifierFree,
    DenoisingLoss,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MomentMatching,
    MultiResolution,
    PixelNoise,
    PointObservation,
    PredictorCorrector,
    Progressive,
    SpectralScaling,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
    metrics,
    sample,
    upscale,
)
from fnodiff.data import ArrayFields, Faces, HDF5Fields, ImageFolder, InMemory, Upsampled, write_fields
from fnodiff.inverse import DPS, Masked, PiGDM, Restriction
from fnodiff.nn import SpectralConv
from fnodiff.sde import (
    Autoguided,
    EvenRho,
    GaussianDenoiser,
    Normalization,
    ReplaceModes,
    Stage,
    fit_spectrum,
    measure_normalization,
    noise_levels,
    run,
)
from fnodiff.train import Adam, Execution, Logging, Preview, freeze, mixed_finetune

BOX, TORUS, NAN = Box(2), Torus(2), float("nan")
SDE = FunctionSpaceSDE(WhiteNoise(BOX, (16, 16)), EDM())
FIELD = GaussianRandomField(BOX, Matern(1.0, 0.3))
ORACLE = GaussianDenoiser(FIELD, SDE)
X, T = torch.zeros(2, 1, 16, 16), torch.full((2,), 0.5)
QUIET = Logging(progress=False)


def spectrum(eigenvalues, dim):
    return FIELD.std(eigenvalues).square()


def net(**options):
    return DFU.tiny(1, 1, domain=BOX, **{"num_blocks": 0, **options})


def model(**options):
    torch.manual_seed(0)
    return Model(net(), SDE, EDMScaling(0.5), **options)


def globe(**options):
    sde = FunctionSpaceSDE(WhiteNoise(Sphere(), (16, 32)), EDM())
    return Model(DFU.tiny(3, 3, domain=Sphere(), num_blocks=0, **options), sde, EDMScaling(0.5))


def data(**options):
    return MultiResolution(Faces(4), BOX, **{"shapes": [16], "batch_size": 2, **options})


def draw(denoiser=ORACLE, seeds=(0,), shape=(16, 16), **options):
    """Samples of the oracle, or of what is given, with the fewest steps."""
    return sample(denoiser, shape, seeds, **{"solver": DPMSolver(2), **options})


def stages(*grids):
    return [Stage(grid, torch.tensor([1.0, 0.0], dtype=torch.float64)) for grid in grids]


def flat(value=0.0):
    """Data that are the same everywhere."""
    return MultiResolution(ArrayFields(np.full((4, 1, 16, 16), value, "float32"), domain=BOX), BOX, [16], batch_size=2)


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(0)


# What is wrong, what it says; no files.
CALLS = {
    # shapes, dtypes, values
    "a field without its batch axis": (lambda: BOX.analyze(X[0]), r"B, C"),
    "a field of one axis too few": (lambda: BOX.analyze(X[..., 0]), r"expected"),
    "integers as a field": (lambda: BOX.analyze(X.long()), r"x.float\(\)"),
    "complex numbers as a field": (lambda: BOX.analyze(X + 1j), r"real floating-point"),
    "an array as a field": (lambda: BOX.analyze(X.numpy()), r"torch.as_tensor"),
    "a number as a grid": (lambda: BOX.points(8), r"2 positive sizes, got \(8,\)"),
    "a grid of halves": (lambda: BOX.points((8, 7.5)), r"positive sizes"),
    "an empty grid": (lambda: BOX.points((0, 8)), r"positive"),
    "a grid of other axes": (lambda: BOX.points((8,)), r"2"),
    "a sample to resample": (lambda: TORUS.resample(X[0], (8, 8)), r"expected"),
    "points of one axis": (lambda: BOX.evaluate(X, torch.rand(1, 5)), r"expected"),
    "a domain of no axes": (lambda: Box(0), r"expected"),
    "sides of other axes": (lambda: Torus(2, (1.0,)), r"expected"),
    "a side of no length": (lambda: Box(1, (0.0,)), r"expected"),
    "an unknown grid": (lambda: Sphere("healpix"), r"legendre-gauss.*got 'healpix'"),
    "one latitude with both poles": (lambda: Sphere("equiangular").points((1, 8)), r"2 latitudes"),
    "area averages on the sphere": (lambda: Sphere().attenuation((8, 16)), r"cell_averages=False"),
    "a seed for two samples of three": (
        lambda: FIELD.sample((3, 1, 8, 8), generator=[seeded()] * 2),
        r"one per sample: 3, got 2",
    ),
    "noise without channels": (lambda: FIELD.sample((3, 8)), r"expected"),
    # devices and generators
    "a field on another device": (lambda: net()(X.to("meta"), T.to("meta")), r"on cpu, as the network is.*on meta"),
    "a seed for a generator": (lambda: FIELD.sample((3, 1, 8, 8), generator=0), r"torch.Generator\(\).manual_seed"),
    "seeds for generators": (lambda: SDE.perturb(X, T, generator=[0, 1]), r"torch.Generator\(\).manual_seed"),
    "numpy's generator": (
        lambda: SDE.prior((1, 1, 8, 8), generator=np.random.default_rng(0)),
        r"torch.Generator\(\).manual_seed",
    ),
    # noise and process
    "smoothness of nothing": (lambda: Matern(0.0, 0.3), r"> 0"),
    "a length that is not a number": (lambda: Matern(1.0, NAN), r"> 0"),
    "pixel noise on the sphere": (lambda: PixelNoise(Sphere()), r"use WhiteNoise"),
    "white noise on a grid of other axes": (lambda: WhiteNoise(BOX, (16,)), r"expected"),
    "a schedule for a noise": (lambda: FunctionSpaceSDE(EDM(), EDM()), r"a Noise and a Schedule"),
    "a class for a schedule": (lambda: FunctionSpaceSDE(SDE.noise, EDM), r"EDM\(\)"),
    "a class for a spectrum": (lambda: GaussianRandomField(BOX, Matern), r"Matern\(1.0\)"),
    "a shape for a domain": (lambda: GaussianRandomField((8, 8), Matern(1.0)), r"Box\(2\)"),
    "a level without end": (lambda: EDM(0.1, float("inf")), r"< inf"),
    "levels that fall": (lambda: EDM(80.0, 0.002), r"expected"),
    "a negative level": (lambda: EDM(-1.0, 80.0), r"expected"),
    "a time before the data": (lambda: SDE.perturb(X, -T), r"\[0, 1\].*schedule.time"),
    "a time beyond the noise": (lambda: SDE.perturb(X, 3 * T), r"\[0, 1\]"),
    "a time that is not a number": (lambda: SDE.perturb(X, NAN * T), r"\[0, 1\]"),
    "a time that is no tensor": (lambda: SDE.perturb(X, 0.5), r"write torch.tensor\(0.5\)"),
    "a time without end": (lambda: SDE.perturb(X, T / 0), r"\[0, 1\]"),
    "times for other samples": (lambda: SDE.perturb(X, torch.rand(3)), r"\(2,\).*\(3,\)"),
    "levels for every eps": (lambda: noise_levels(SDE.noise, spectrum, (16, 16), eps=0.0), r"0.01 is usual"),
    # networks
    "modes for other axes": (lambda: SpectralConv(1, 1, (8,), domain=BOX), r"per spatial axis"),
    "no modes": (lambda: SpectralConv(1, 1, (0, 8), domain=BOX), r"positive integers"),
    "half a mode": (lambda: SpectralConv(1, 1, (8.5, 8), domain=BOX), r"positive integers"),
    "modes of a torus on the sphere": (lambda: SpectralConv(1, 1, (8, 8), domain=Sphere()), r"Torus or a Box"),
    "degrees that are no pair": (lambda: DFU.tiny(1, 1, domain=Sphere(), n_modes=(8, 8)), r"\(L, 2 L\)"),
    "taps of no grid": (lambda: net(local="operator"), r"largest grid trained on"),
    "branches of another name": (lambda: net(local="both"), r"'both'.*at least one branch"),
    "a reference of other axes": (lambda: net(reference=(16,)), r"2 positive sizes"),
    "channels that do not group": (lambda: net(hidden_channels=6), r"divisible by 4"),
    "attention where no level is": (lambda: net(attention_levels=(7,)), r"attention_levels among"),
    "a grid too small for the network": (lambda: net()(torch.zeros(1, 1, 4, 4), T[:1]), r"at least 8"),
    "channels of another model": (lambda: net()(torch.zeros(1, 3, 16, 16), T[:1]), r"expected 1 channels"),
    "noise levels for other samples": (lambda: net()(X, torch.rand(3)), r"noise_level"),
    "a label without classes": (lambda: net()(X, T, label=torch.zeros(2).long()), r"no label"),
    "classes without a label": (lambda: net(num_classes=2)(X, T), r"expected a label"),
    "a class and a half": (lambda: net(num_classes=2)(X, T, label=torch.tensor([0.0, 0.5])), r"integer labels"),
    "no channels": (lambda: DFU.tiny(0, 1), r"positive numbers of channels"),
    "channels by name": (lambda: DFU.tiny("rgb", "rgb"), r"positive numbers of channels"),
    "more modes than a grid holds": (
        lambda: fit(Model(net(n_modes=(32, 8)), SDE, EDMScaling()), data(), 1),
        r"modes that one of the grids.*build it with fewer",
    ),
    "more degrees than a grid holds": (
        lambda: fit(globe(n_modes=(32, 64)), MultiResolution(Faces(4), Sphere(), [16]), 1),
        r"modes that one of the grids",
    ),
    "a class beyond the last": (lambda: net(num_classes=2)(X, T, label=torch.tensor([0, 2])), r"from 0 to 1"),
    "a condition that nothing takes": (lambda: net()(X, T, field=X), r"condition_channels=1"),
    # denoisers
    "data without spread": (lambda: EDMScaling(0.0), r"standard deviation"),
    "a network elsewhere": (
        lambda: Model(DFU.tiny(1, 1, domain=TORUS), SDE, EDMScaling()),
        r"one domain for both",
    ),
    "a class for a network": (lambda: Model(DFU, SDE, EDMScaling()), r"DFU.small\(3, 3\)"),
    "a number for a scaling": (lambda: Model(net(), SDE, 0.5), r"EDMScaling\(sigma_data=0.5\)"),
    "a schedule for a process": (lambda: Model(net(), EDM(), EDMScaling()), r"FunctionSpaceSDE\(noise, schedule\)"),
    "channels that the network does not take": (
        lambda: Model(net(), SDE, EDMScaling(), channels=3),
        r"takes 3 channels for fields of 3.*got 1; build it with 3",
    ),
    "a linear estimate that nothing takes": (
        lambda: Model(net(), SDE, EDMScaling(linear_estimate=True), spectrum=spectrum),
        r"takes 2 channels for fields of 1.*got 1; build it with 2",
    ),
    "a linear estimate without a spectrum": (
        lambda: Model(DFU.tiny(2, 1), SDE, EDMScaling(linear_estimate=True)),
        r"as EDMScaling needs it, got none.*Model.for_data",
    ),
    "a scaling by modes without a spectrum": (
        lambda: Model(net(), SDE, SpectralScaling((16, 16))),
        r"as SpectralScaling needs it, got none.*Model.for_data",
    ),
    "a class as the spectrum": (lambda: model(spectrum=Matern), r"pass fit_spectrum"),
    "a number as units": (lambda: model(normalization=0.5), r"Normalization\(mean, std\)"),
    "a number as units of a condition": (
        lambda: model(condition_normalization={"field": 0.5}),
        r"Normalization\(mean, std\)",
    ),
    "units of labels": (
        lambda: model(condition_normalization={"label": Normalization()}),
        r"for field and condition, got \['label'\]; labels have no units",
    ),
    "a model for data that are constant": (lambda: Model.for_data(flat(3.0), DFU.tiny), r"drop the constant ones"),
    "a model for data that are all missing": (lambda: Model.for_data(flat(NAN), DFU.tiny), r"drop the others"),
    "units of what does not vary": (lambda: measure_normalization(flat()), r"drop the constant ones"),
    "a cutoff of nothing": (lambda: SpectralScaling((16, 16), cutoff=0.0), r"cutoff > 0"),
    "a constant channel": (lambda: Normalization([0.0], [0.0]), r"leave it out"),
    "units of other channels": (lambda: Normalization([0.0, 0.0], [1.0, 1.0])(X), r"2 channels"),
    "a spectrum of NaN": (lambda: fit_spectrum(X * NAN, BOX), r"clean the data"),
    "a spectrum of infinity": (lambda: fit_spectrum(X / 0 + 1 / torch.zeros(()), BOX), r"clean the data"),
    "a spectrum of a few points": (lambda: fit_spectrum(torch.randn(4, 1, 2, 2), BOX), r"finer grid"),
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
    "a solver by name": (lambda: draw(solver="heun"), r"got 'heun'; a solver holds no denoiser"),
    "a class as the solver": (lambda: draw(solver=Heun), r"such as DPMSolver\(12\).*a solver holds no denoiser"),
    "a denoiser as the solver": (lambda: upscale(ORACLE, X, 32, [0, 1], solver=ORACLE), r"a solver holds no denoiser"),
    "no steps": (lambda: Heun(0), r"18 is usual"),
    "half a step": (lambda: DPMSolver(2.5), r"steps >= 1"),
    "a denoiser for the steps": (lambda: DPMSolver(ORACLE, 12), r"steps >= 1"),
    "spacing by name": (lambda: DDIM(4, spacing="log_snr"), r"EvenLogSNR\(\), got 'log_snr'"),
    "spacing of a power below nothing": (lambda: EvenRho(0.0), r"7 is usual"),
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
    "exact values": (lambda: Restriction((8, 8), torch.zeros(1, 8, 8), 0.0), r"hundredth"),
    "values that are not there": (lambda: Restriction((8, 8), torch.full((1, 8, 8), NAN), 0.1), r"not measured"),
    "values without end": (lambda: Restriction((8, 8), torch.full((1, 8, 8), float("inf")), 0.1), r"not measured"),
    "a mask of numbers": (lambda: Masked(torch.ones(8, 8), torch.zeros(1, 8, 8), 0.1), r"mask > 0.5"),
    "a tolerance of one": (
        lambda: MomentMatching(ORACLE, Restriction((8, 8), torch.zeros(1, 8, 8), 0.1), tolerance=1.0),
        r"\(0, 1\)",
    ),
    "a scale of nothing": (lambda: DPS(ORACLE, Restriction((8, 8), torch.zeros(1, 8, 8), 0.1), scale=0.0), r"1 fits"),
    "an observation twice": (
        lambda: PiGDM(PiGDM(ORACLE, see := Restriction((8, 8), torch.zeros(1, 8, 8), 0.1), 1.0), see, 1.0),
        r"put both into one",
    ),
    "observations of other samples": (
        lambda: draw(MomentMatching(ORACLE, Restriction((8, 8), torch.zeros(3, 1, 8, 8), 0.1)), seeds=[0, 1]),
        r"one observation for each of the 2 samples",
    ),
    "a spread that nobody knows": (
        lambda: PiGDM(ORACLE, Restriction((8, 8), torch.zeros(1, 8, 8), 0.1)),
        r"sigma_data > 0, got None; pass",
    ),
    "no iterations": (
        lambda: MomentMatching(ORACLE, Restriction((8, 8), torch.zeros(1, 8, 8), 0.1), iterations=0),
        r"100 is usual",
    ),
    # data and training
    "a shape twice": (lambda: data(shapes=[16, 16]), r"name each shape once"),
    "batches of nothing": (lambda: data(batch_size=0), r"batch_size >= 1"),
    "weights below nothing": (lambda: data(weights=[-1.0]), r"weights >= 0"),
    "more images than there are": (lambda: Faces(4).batch([4], (16, 16)), r"make `count` larger"),
    "a grid that was not kept": (lambda: InMemory(Faces(2), [(16, 16)], progress=False).batch([0], (8, 8)), r"add it"),
    "arrays without a domain": (lambda: ArrayFields(np.zeros(4)), r"pass domain="),
    "arrays of no axes": (lambda: ArrayFields(np.zeros(4), domain=BOX), r"\(N, C, \*grid\)"),
    "arrays of infinity": (lambda: ArrayFields(np.full((2, 8, 8), np.inf), domain=BOX), r"mend them"),
    "channels behind the globe": (lambda: ArrayFields(np.zeros((2, 8, 16, 3)), domain=Sphere()), r"channel_axis=-1"),
    "longitudes without latitudes": (
        lambda: ArrayFields(np.zeros((2, 8, 16)), longitudes=np.arange(16.0)),
        r"pass the other too",
    ),
    "upsampling to a mixed grid": (lambda: Upsampled(Faces(2), (32, 32), BOX).batch([0], (64, 16)), r"as fine as"),
    "data on another domain": (
        lambda: fit(model(), MultiResolution(Faces(4), TORUS, [16], batch_size=2), 1),
        r"one domain for both",
    ),
    "images for batches": (
        lambda: fit(model(), Faces(4), 1),
        r"got Model and Faces; write such as fit\(Model.for_data",
    ),
    "a network to train": (lambda: fit(net(), data(), 1), r"got DFU and MultiResolution; write such as fit\(Model"),
    "an oracle to train": (lambda: fit(ORACLE, data(), 1), r"got GaussianDenoiser and MultiResolution"),
    "no end": (lambda: fit(model(), data()), r"say when to stop"),
    "a loss of another model": (
        lambda: fit(model(), data(), 1, loss=DenoisingLoss(model())),
        r"build DenoisingLoss\(model\)",
    ),
    "a run that is nowhere": (lambda: fit(model(), data(), 1, resume=True), r"with a folder=, got True and None"),
    "a run that may be nowhere": (lambda: fit(model(), data(), 1, resume="auto"), r"with a folder=, got 'auto'"),
    "a folder to resume": (
        lambda: fit(model(), data(), 1, resume="run", folder="run"),
        r'True, False or "auto".*got \'run\'',
    ),
    "previews that nothing shows": (
        lambda: fit(model(), data(), 1, logging=Logging(progress=False, preview=Preview([(16, 16)]))),
        r"call its init_trackers",
    ),
    "previews of lines": (lambda: Preview([(16,)]), r"pictures of 2-D fields"),
    "previews of no seeds": (lambda: Preview([(16, 16)], seeds=[]), r"expected seeds"),
    "shares of one process": (
        lambda: fit(model(), data(), 1, execution=Execution(shard=True)),
        r"torchrun or accelerate launch",
    ),
    "a rate of nothing": (lambda: Adam(lr=0.0), r"Adam: expected lr > 0"),
    "a clip below nothing": (lambda: Adam(clip=-1.0), r"Adam: expected clip > 0"),
    "an average without end": (lambda: Adam(ema_halflife=float("inf")), r"Adam: expected ema_halflife > 0, got inf"),
    "a rate that ramps down": (lambda: Adam(rampup=-1), r"rampup >= 0"),
    "an average of all that ever was": (lambda: Adam(betas=(0.9, 1.0)), r"betas in \[0, 1\)"),
    "checkpoints at every no step": (lambda: Execution(save_every=0), r"save_every >= 1"),
    "fewer than no workers": (lambda: Execution(workers=-1), r"workers >= 0"),
    "a run's seed below nothing": (lambda: Execution(seed=-1), r"seed >= 0"),
    "steps that go back": (lambda: data().steps(5, 2), r"0 <= start <= stop.*got 5, 2 and 1"),
    "steps before the first": (lambda: data().steps(-1, 2), r"0 <= start"),
    "every no step": (lambda: data().steps(0, 2, every=0), r"every >= 1"),
    "half a step of a run": (lambda: data().steps(0, 2.5), r"0 <= start <= stop"),
    "a part of another name": (lambda: freeze(model(), parts=["head"]), r"parts among"),
    "fine-tuning what was not trained": (
        lambda: mixed_finetune(model(), Faces(4), (32, 32), steps=1),
        r"train it with fit",
    ),
    "a weight for two shapes": (
        lambda: MultiResolution(Faces(4), BOX, [16, 8], weights=[1.0]),
        r"one weight for each",
    ),
    # metrics
    "sets on two grids": (lambda: metrics.spectrum_error(X, X[..., :8], BOX), r"resample one"),
    "errors on two grids": (lambda: metrics.relative_l2(X, X[..., :8], BOX), r"resample one"),
    "a set of one": (lambda: metrics.frechet_distance(X[0, 0, :1], X[0, 0]), r"N >= 2"),
    "patches larger than the picture": (lambda: metrics.patch_distance(X[..., :4, :4], X[..., :4, :4]), r"or more"),
    "a band that is all": (lambda: metrics.high_band_distance(X, X, BOX, (32, 32)), r"nothing above it"),
    "patches of the sphere": (lambda: metrics.high_band_distance(X, X, Sphere(), (8, 16)), r"compare spectra"),
    "an ensemble of one": (lambda: metrics.crps(X[None, :1], X[:1], BOX), r"S >= 2"),
    "an ensemble with NaN": (lambda: metrics.crps(NAN * X[:, None], X[:1], BOX), r"finite"),
    "more coverage than samples": (
        lambda: metrics.coverage(torch.randn(3, 2, 1, 16, 16), X, BOX, level=0.99),
        r"draw more samples",
    ),
}


def says_the_mend(error):
    """Behind what was expected and what came: "...; use ..." or a sentence of its own."""
    return re.search(r"; \S|\. [A-Z`]", str(error)) is not None and "weights_only" not in str(error)


@pytest.mark.parametrize("case", CALLS)
def test_is_refused_with_the_mend(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = CALLS[case]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert says_the_mend(raised.value), raised.value
    assert list(tmp_path.iterdir()) == []


# ---- files --------------------------------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    return model().save_pretrained(folder / "model")


def with_config(change, folder: Path):
    path = saved(folder) / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return partial(Model.from_pretrained, folder / "model")


def with_tensors(change, folder: Path):
    path = saved(folder) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    return partial(Model.from_pretrained, folder / "model")


def with_bytes(content: bytes, name: str, folder: Path):
    (saved(folder) / name).write_bytes(content)
    return partial(Model.from_pretrained, folder / "model")


def cut(name: str, folder: Path):
    path = saved(folder) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return partial(Model.from_pretrained, folder / "model")


def image(folder: Path, name: str = "a.png", keep: float = 1.0) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    return folder


def images(folder: Path, keep: float = 1.0, shape=(32, 32)):
    image(folder, keep=keep)
    return lambda: ImageFolder(folder).batch([0], shape)


def not_an_image(folder: Path):
    (folder / "a.png").write_bytes(b"not an image at all")
    return lambda: ImageFolder(folder).batch([0], (32, 32))


def zipped(members, folder: Path):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return lambda: ImageFolder(folder / "a.zip").batch([0], (32, 32))


def zip_bomb(folder: Path):
    """A member that says it is a terabyte."""
    call = zipped([("a.png", bytes(2**20))], folder)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
        archive.getinfo("a.png").file_size = 2**40  # the directory is written at the end
    return call


def png_bomb(folder: Path):
    """A few hundred bytes that say they are 50,000 x 50,000 pixels."""
    content = bytearray((image(folder) / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "a.png").write_bytes(content)
    return lambda: ImageFolder(folder).batch([0], (32, 32))


def masked(name: str, shape: tuple[int, ...], dtype: str, folder: Path):
    return hdf5(lambda file: file.create_dataset(name, data=np.ones(shape, dtype)), folder)


def hdf5(change, folder: Path):
    about = {"source": "a test", "licence": "none", "grid": "cell averages"}
    write_fields(folder / "a.h5", Faces(3), [(16, 16)], attributes=about, progress=False)
    with h5py.File(folder / "a.h5", "r+") as file:
        change(file)
    return partial(HDF5Fields, folder / "a.h5")


def cut_hdf5(folder: Path):
    hdf5(lambda file: None, folder)
    content = (folder / "a.h5").read_bytes()
    (folder / "a.h5").write_bytes(content[: len(content) // 2])
    return lambda: HDF5Fields(folder / "a.h5")


def grey():
    """Batches that the model could learn from."""
    x = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype("float32")
    return MultiResolution(ArrayFields(x, domain=BOX), BOX, [16], batch_size=2)


def resumed(content: bytes | None, folder: Path, resume=True):
    saved(folder)
    if content is not None:
        (folder / "model" / "training.pt").write_bytes(content)
    return lambda: fit(model(), grey(), 2, folder=folder / "model", resume=resume, logging=QUIET)


def gone_on_with(other, batches, folder: Path):
    """A run that is resumed with another model, or on other data."""
    options = {"folder": folder / "model", "logging": QUIET}
    fit(model(), grey(), 1, **options)
    return lambda: fit(other(), batches(), 2, resume=True, **options)


def other_model():
    return Model(net(num_blocks=1), SDE, EDMScaling(0.5))


def other_data():
    return MultiResolution(grey().fields, BOX, [16], batch_size=4)


class Hostile:
    """Would write a file, if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(name: str, folder: Path):
    return with_bytes(pickle.dumps(Hostile(folder / "owned")), name, folder)


def hostile_state(folder: Path):
    call = resumed(None, folder)
    torch.save({"ema": Hostile(folder / "owned")}, folder / "model" / "training.pt")
    return call


def rename(tensors):
    tensors["another"] = tensors.pop(sorted(tensors)[0])


def lose(tensors):
    tensors.pop(sorted(tensors)[0])


def add(tensors):
    tensors["another"] = torch.zeros(3)


def misshape(tensors):
    name = next(k for k in sorted(tensors) if tensors[k].ndim > 1)
    tensors[name] = tensors[name][:1].clone()


FILES = {
    "no such folder": (lambda folder: partial(Model.from_pretrained, folder / "nowhere"), r"none of these"),
    "a folder without a model": (lambda folder: partial(Model.from_pretrained, folder), r"expected config.json"),
    "a config that is no JSON": (partial(with_bytes, b"{", "config.json"), r"not valid JSON"),
    "a config that is no text": (partial(with_bytes, b"\xff\xfe\x00", "config.json"), r"not valid JSON"),
    "a config of another program": (partial(with_bytes, b"[1, 2]", "config.json"), r"format 3.*save it again"),
    "a config of another format": (partial(with_config, lambda c: c.update(format=99)), r"format 3.*save it again"),
    "a config of the format before": (
        partial(with_config, lambda c: c.update(format=2)),
        r"format 3, got format 2; convert it: fnodiff convert",
    ),
    "an unknown class": (partial(with_config, lambda c: c["model"].update({"class": "Unknown"})), r"pass it"),
    "a hostile class": (partial(with_config, lambda c: c["model"].update({"class": "os.system"})), r"not allowed"),
    "a class that is no name": (partial(with_config, lambda c: c["model"].update({"class": ["DFU"]})), r"not allowed"),
    "a config without bottom": (partial(with_bytes, b"[" * 100_000, "config.json"), r"save the model again"),
    "a config of many nests": (
        partial(with_config, lambda c: c["model"].update(network=json.loads("[" * 700 + "]" * 700))),
        r"too deeply nested",
    ),
    "a network of text": (partial(with_config, lambda c: c["model"].update(network="rm")), r"expected a network"),
    "a process of text": (partial(with_config, lambda c: c["model"].update(sde="EDM")), r"expected a process"),
    "a noise of text": (
        partial(with_config, lambda c: c["model"]["sde"]["noise"].update(domain="Box")),
        r"does not take these",
    ),
    "a scaling of text": (partial(with_config, lambda c: c["model"].update(scaling="edm")), r"expected a scaling"),
    "a spectrum of text": (partial(with_config, lambda c: c["model"].update(spectrum="rm")), r"expected a spectrum"),
    "units of text": (partial(with_config, lambda c: c["model"].update(normalization="K")), r"a Normalization"),
    "units of a condition that is none": (
        partial(with_config, lambda c: c["model"].update(condition_normalization={"label": None})),
        r"labels have no units",
    ),
    "grids that are none": (partial(with_config, lambda c: c.update(training_shapes=16)), r"training_shapes"),
    "grids of text": (partial(with_config, lambda c: c.update(training_shapes=["16x16"])), r"positive sizes"),
    "arguments that nothing takes": (partial(with_config, lambda c: c["model"].update(sigma=1)), r"does not take"),
    "a noise as the model": (
        partial(with_config, lambda c: c.update(model=c["model"]["sde"])),
        r"expected a Model, got FunctionSpaceSDE",
    ),
    "tensors cut short": (partial(cut, "model.safetensors"), r"save the model again"),
    "a pickle for tensors": (partial(hostile, "model.safetensors"), r"not a readable safetensors"),
    "a pickle for the config": (partial(hostile, "config.json"), r"config.json"),
    "a tensor too few": (partial(with_tensors, lose), r"missing network"),
    "a tensor too many": (partial(with_tensors, add), r"left over another"),
    "a tensor of another name": (partial(with_tensors, rename), r"missing.*left over another"),
    "a tensor of another shape": (partial(with_tensors, misshape), r"does not fit"),
    "a run without its state": (partial(resumed, None), r"cannot be resumed"),
    "a state that is noise": (partial(resumed, b"noise"), r"not a readable training state"),
    "a state that runs code": (hostile_state, r"not a readable training state"),
    "a folder that holds a run": (partial(resumed, b"", resume=False), r"holds one; pass resume=True"),
    "a run of another model": (partial(gone_on_with, other_model, grey), r"expected to resume model.*use the same"),
    "a run on other data": (partial(gone_on_with, model, other_data), r"expected to resume data.*use the same"),
    "an image cut short": (partial(images, keep=0.5), r"mend or remove"),
    "an image that is text": (not_an_image, r"mend or remove"),
    "an image too small": (partial(images, shape=(128, 128)), r"averaging cannot invent detail"),
    "a folder without images": (lambda folder: partial(ImageFolder, folder), r"no image in"),
    "a folder that is not there": (lambda folder: partial(ImageFolder, folder / "nowhere"), r"nowhere"),
    "a zip of nothing": (partial(zipped, []), r"no image in"),
    "a zip out of its folder": (partial(zipped, [("../owned.png", b"noise")]), r"no image in"),
    "a zip with a broken image": (partial(zipped, [("a.png", b"\x89PNG noise")]), r"mend or remove"),
    "a zip out of the root": (partial(zipped, [("/tmp/owned.png", b"noise")]), r"mend or remove"),
    "a zip of nothing but zeros": (partial(zipped, [("a.png", bytes(2**24))]), r"mend or remove"),
    "a zip that explodes": (zip_bomb, r"1099511627776 bytes are more.*mend or remove"),
    "an image that explodes": (png_bomb, r"decompression bomb.*mend or remove"),
    "a file that is no HDF5": (lambda folder: partial(HDF5Fields, image(folder) / "a.png"), r"not an HDF5 file"),
    "no HDF5 at all": (lambda folder: partial(HDF5Fields, folder / "a.h5"), r"not a file"),
    "an HDF5 cut short": (cut_hdf5, r"write it again"),
    "an HDF5 without fields": (partial(hdf5, lambda f: f.pop("x")), r"x/"),
    "an HDF5 of another version": (partial(hdf5, lambda f: f.attrs.modify("version", 9)), r"version"),
    "an HDF5 that was not finished": (partial(hdf5, lambda f: f.attrs.modify("complete", 1)), r"complete"),
    "an HDF5 with half a mask": (partial(masked, "mask/16x16", (2, 1, 16, 16), "uint8"), r"as many samples"),
    "an HDF5 with a mask of numbers": (partial(masked, "mask/16x16", (3, 1, 16, 16), "float32"), r"as uint8 \(N"),
    "an HDF5 of other lengths": (
        partial(hdf5, lambda f: f.create_dataset("label", data=np.zeros(7, dtype="int64"))),
        r"expected",
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_and_nothing_changes(case, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "inside").mkdir()
    make, message = FILES[case]
    call = make(tmp_path / "inside")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert says_the_mend(raised.value), raised.value
    assert contents(tmp_path) == before


def test_the_table_is_as_long_as_it_says():
    assert len(CALLS) + len(FILES) >= 150
    assert len({re.sub(r"\W", "", name) for name in (*CALLS, *FILES)}) == len(CALLS) + len(FILES)
