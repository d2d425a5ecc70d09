"""What every public constructor and source is given: one set of good arguments, and values of wrong kinds, shapes, ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from refused import BOX, FIELD, NAN, ORACLE, QUIET, SDE, TORUS, X, data, model, net
from torch import Tensor, nn

import fnodiff
from fnodiff import equations, inverse, metrics, sde, train
from fnodiff import nn as layers
from fnodiff.data import (
    ArrayFields,
    Augmentation,
    Augmented,
    Chunks,
    HDF5Fields,
    ImageFolder,
    InMemory,
    LatLon,
    MultiResolution,
    Part,
    Records,
    Stream,
    Terrain,
    Upsampled,
    WithNumbers,
    from_xarray,
    to_xarray,
    write_fields,
)
from fnodiff.domain import Box, Product, Sphere, Torus

FOLDER = Path(tempfile.mkdtemp())
FIELDS = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
SOURCE = ArrayFields(FIELDS, domain=BOX)
BATCHES, MODEL, NET = data(), model(), net()
RECORDS = [{"x": np.ones((1, 16, 16), "f4"), "y": i} for i in range(2)]
HALF = torch.linspace(0, 1, 5)
SEEN = inverse.PointObservation(torch.rand(2, 3), torch.randn(1, 3), 0.1)

SAID = {"source": "drawn", "licence": "CC0", "grid": "points"}


class Junk:
    """A value that is none of anything."""

    def __repr__(self) -> str:
        return "Junk()"


VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, -(10**30), 0.5, -2.5, -0.0, NAN, float("inf"), -float("inf"), 1j),
    *("", "abc", "1", "16x16", b"16", Path("nowhere"), Junk(), Junk, len, lambda *_, **__: None, range(3), ...),
    *([], (), {}, {1}, [1], [1, 2], (8, 8), [0.5, 0.5], [-1, 4], [8, NAN], [None], ["a", "b"], [[1, 2], [3]], {"x": 1}),
    *(np.float32(0.5), np.int64(3), np.bool_(True), np.array(2.0), np.arange(3), np.array(["a"]), np.zeros((2, 0))),
    *(torch.tensor(3), torch.tensor(0.5), torch.zeros(0), torch.zeros(3), torch.zeros(2, 1, 8, 8), NAN * X, 1j * X),
    *(X.half(), X.long(), X > 0, X[0], X[:, :0], X[..., :5], FIELDS.numpy()),
    *(
        BOX,
        Box,
        TORUS,
        Box(1),
        Sphere(),
        Torus(3),
        Product([Torus(1), Box(1)]),
        FIELD,
        SDE,
        ORACLE,
        MODEL,
        NET,
        nn.Identity(),
    ),
    *(fnodiff.EDM(), fnodiff.EDM, fnodiff.Matern(1.0), fnodiff.DPMSolver(2), fnodiff.DFU.tiny, SOURCE, BATCHES, SEEN),
]


def field(shape: tuple[int, ...] = (1, 1, 8, 8)) -> Callable[[Any], Tensor]:
    return lambda noise: noise.sample(shape, generator=torch.Generator().manual_seed(0))


def levels(schedule: Any) -> Tensor:
    alpha, sigma = schedule(HALF.double())
    assert bool((sigma[1:] / alpha[1:] > sigma[:-1] / alpha[:-1]).all())
    return torch.stack([alpha, sigma])


def solved(solver: Any) -> Tensor:
    return fnodiff.sample(ORACLE, 8, [0], solver=solver)


def first(source: Any) -> Tensor:
    return source.batch([0], (8, 8))["x"]


def estimate(denoiser: Any) -> Tensor:
    return denoiser(X[:1, :, ::2, ::2], torch.tensor(0.5))


def output(layer: Any) -> Tensor:
    return layer(torch.ones(1, 4, 16, 16))


def nothing(_: Any) -> None:
    return None


FLOW = {
    "count": 1,
    "seed": 0,
    "time": 0.01,
    "viscosity": 0.1,
    "scale": 1.0,
    "condition": True,
    "fine": 16,
    "dt": None,
    "keep": 1,
}
# What is called, with good arguments, and what its result is used for: numbers, or None.
TARGETS: dict[str, tuple[Callable[..., Any], Mapping[str, Any], Callable[[Any], Any]]] = {
    # domains
    "Box": (Box, {"dim": 2, "lengths": (1.0, 2.0)}, lambda d: d.points((4,) * d.dim)),
    "Torus": (Torus, {"dim": 2, "lengths": (1.0, 2.0)}, lambda d: d.eigenvalues((4,) * d.dim)),
    "Product": (Product, {"factors": [Torus(1), Box(1)]}, lambda d: d.points((4,) * d.dim)),
    "Sphere": (Sphere, {"grid": "equiangular"}, lambda d: d.points((4, 8))),
    "points": (BOX.points, {"shape": (4, 4)}, lambda x: x),
    "resample": (BOX.resample, {"x": X, "shape": (8, 8)}, lambda x: x),
    "average": (BOX.average, {"x": X, "shape": (8, 8)}, lambda x: x),
    "filter": (TORUS.filter, {"x": X, "f": lambda e: 1 / (1 + e)}, lambda x: x),
    "evaluate": (BOX.evaluate, {"x": X, "points": torch.rand(2, 3)}, lambda x: x),
    "norm": (BOX.norm, {"x": X}, lambda x: x),
    # noise and schedules
    "EDM": (fnodiff.EDM, {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 7.0}, levels),
    "VE": (fnodiff.VE, {"sigma_min": 0.1, "sigma_max": 10.0}, levels),
    "VP": (fnodiff.VP, {"beta_min": 0.1, "beta_max": 20.0, "t_min": 0.01}, levels),
    "SubVP": (fnodiff.SubVP, {"beta_min": 0.1, "beta_max": 20.0, "t_min": 0.01}, levels),
    "Cosine": (fnodiff.Cosine, {"sigma_min": 0.1, "sigma_max": 10.0}, levels),
    "RectifiedFlow": (fnodiff.RectifiedFlow, {"sigma_min": 0.1, "sigma_max": 10.0}, levels),
    "Matern": (fnodiff.Matern, {"smoothness": 1.0, "length_scale": 0.2}, lambda s: s(HALF, 2)),
    "RBF": (fnodiff.RBF, {"length_scale": 0.2}, lambda s: s(HALF, 2)),
    "ChannelSpectra": (sde.ChannelSpectra, {"channels": [fnodiff.RBF(0.2)]}, lambda s: s(HALF, 2)),
    "GaussianRandomField": (fnodiff.GaussianRandomField, {"domain": BOX, "spectrum": fnodiff.Matern(1.0)}, field()),
    "WhiteNoise": (fnodiff.WhiteNoise, {"domain": BOX, "reference": (8, 8)}, field()),
    "PixelNoise": (fnodiff.PixelNoise, {"domain": BOX}, field()),
    "Noise.sample": (FIELD.sample, {"shape": (1, 1, 8, 8), "generator": torch.Generator(), "dtype": None}, lambda x: x),
    "FunctionSpaceSDE": (
        fnodiff.FunctionSpaceSDE,
        {"noise": SDE.noise, "schedule": SDE.schedule},
        lambda s: s.prior((1, 1, 8, 8)),
    ),
    "Normalization": (sde.Normalization, {"mean": 1.0, "std": 2.0}, lambda n: n(X)),
    "DataSpectrum": (
        sde.DataSpectrum,
        {"wavenumbers": (0.0, 1.0, 2.0), "powers": (1.0, 1.0, 0.5), "exponent": 3.0, "floor": 1e-6},
        lambda s: s(HALF),
    ),
    "fit_spectrum": (
        sde.fit_spectrum,
        {"fields": FIELDS, "domain": BOX, "cell_averages": True, "floor": 1e-8},
        lambda s: s(HALF),
    ),
    "noise_levels": (
        sde.noise_levels,
        {"noise": SDE.noise, "spectrum": fnodiff.RBF(), "shape": (8, 8), "eps": 0.01},
        torch.tensor,
    ),
    "noise_law": (sde.noise_law, {"noise": SDE.noise, "spectrum": fnodiff.Matern(1.0), "shape": (8, 8)}, torch.tensor),
    # scalings, solvers, plans
    "EDMScaling": (
        fnodiff.EDMScaling,
        {"sigma_data": 0.5, "linear_estimate": True},
        lambda s: torch.tensor(s.inputs(1)),
    ),
    "SpectralScaling": (
        fnodiff.SpectralScaling,
        {"reference": (8, 8), "cutoff": 4.0, "linear_estimate": False},
        lambda s: s(SDE, fnodiff.Matern(1.0, 0.2), X, torch.tensor(0.5)).input,
    ),
    "FlowScaling": (fnodiff.FlowScaling, {"linear_estimate": True}, lambda s: torch.tensor(s.inputs(1))),
    "EvenRho": (sde.EvenRho, {"rho": 7.0}, lambda s: fnodiff.DPMSolver(3, s).times(SDE.schedule)),
    "DPMSolver": (fnodiff.DPMSolver, {"steps": 2, "spacing": sde.EvenTime(), "eta": 0.0}, solved),
    "DDIM": (fnodiff.DDIM, {"steps": 2, "spacing": sde.EvenTime(), "eta": 0.5}, solved),
    "Heun": (
        fnodiff.Heun,
        {"steps": 2, "spacing": None, "churn": 1.0, "churn_min": 0.0, "churn_max": 9.0, "churn_noise": 1.0},
        solved,
    ),
    "EulerMaruyama": (fnodiff.EulerMaruyama, {"steps": 2, "spacing": sde.EvenLogSNR()}, solved),
    "AnnealedLangevin": (fnodiff.AnnealedLangevin, {"steps": 2, "spacing": None, "corrections": 1, "snr": 0.1}, solved),
    "PredictorCorrector": (
        fnodiff.PredictorCorrector,
        {"steps": 2, "spacing": None, "corrections": 1, "snr": 0.1, "predictor": fnodiff.EulerMaruyama()},
        solved,
    ),
    "Progressive": (
        fnodiff.Progressive,
        {"grids": [8], "budget": 0.5},
        lambda p: p.plan(ORACLE, (16, 16), torch.linspace(1, 0, 4))[0].times,
    ),
    "Cascade": (
        fnodiff.Cascade,
        {"grids": [8], "through": (), "keep": 0.5, "budget": 0.5},
        lambda p: p.plan(ORACLE, (16, 16), torch.linspace(1, 0, 4))[0].times,
    ),
    "Stage": (sde.Stage, {"shape": (8, 8), "times": torch.linspace(1, 0, 3), "held": None}, lambda s: s.times),
    # denoisers
    "Model": (
        fnodiff.Model,
        {
            "network": NET,
            "sde": SDE,
            "scaling": fnodiff.EDMScaling(),
            "normalization": None,
            "spectrum": fnodiff.Matern(1.0),
            "cell_averages": False,
            "channels": 1,
        },
        nothing,
    ),
    "Model.for_data": (
        fnodiff.Model.for_data,
        {"data": BATCHES, "network": fnodiff.DFU.tiny, "noise": None, "schedule": None},
        nothing,
    ),
    "GaussianDenoiser": (sde.GaussianDenoiser, {"data": FIELD, "sde": SDE}, estimate),
    "ClassifierFree": (fnodiff.ClassifierFree, {"denoiser": ORACLE, "scale": 1.5, "drop": None}, nothing),
    "Autoguided": (
        sde.Autoguided,
        {"denoiser": ORACLE, "guide": ORACLE, "scale": 1.5, "noise_levels": (0.3, 3.0)},
        estimate,
    ),
    "Given": (sde.Given, {"denoiser": ORACLE}, estimate),
    "ReplaceModes": (sde.ReplaceModes, {"denoiser": ORACLE, "low": X[:1, :, ::4, ::4]}, estimate),
    "ReplaceCells": (sde.ReplaceCells, {"denoiser": ORACLE, "low": X[:1, :, ::4, ::4]}, estimate),
    "DenoisingLoss": (
        fnodiff.DenoisingLoss,
        {"model": MODEL, "p_mean": -1.0, "p_std": 1.0, "drop_condition": 0.1, "coupling": None},
        lambda loss: loss(FIELDS),
    ),
    "sample": (
        fnodiff.sample,
        {
            "denoiser": ORACLE,
            "shape": 8,
            "seeds": [0],
            "solver": fnodiff.DPMSolver(1),
            "plan": None,
            "batch": 1,
            "device": None,
        },
        lambda x: x,
    ),
    "upscale": (
        fnodiff.upscale,
        {
            "denoiser": ORACLE,
            "low": X[:1, :, ::4, ::4],
            "shape": 8,
            "seeds": [0],
            "solver": fnodiff.DPMSolver(1),
            "batch": 1,
        },
        lambda x: x,
    ),
    "log_likelihood": (
        fnodiff.log_likelihood,
        {"denoiser": ORACLE, "x": X[:1, :, ::4, ::4], "steps": 2, "probes": 1, "noisy": False, "seed": 0, "batch": 1},
        lambda x: x,
    ),
    # inverse problems
    "PointObservation": (
        inverse.PointObservation,
        {"points": torch.rand(2, 3), "values": torch.randn(1, 3), "noise_std": 0.1, "channels": None},
        lambda o: o(X, BOX),
    ),
    "Masked": (inverse.Masked, {"mask": FIELDS[:1] > 0, "values": X[:1], "noise_std": 0.1}, nothing),
    "Restriction": (
        inverse.Restriction,
        {"shape": (4, 4), "values": torch.zeros(1, 4, 4), "noise_std": 0.1},
        lambda o: o(X, BOX),
    ),
    "Linear": (
        inverse.Linear,
        {"operator": lambda x: x[..., 0], "values": torch.zeros(1, 16), "noise_std": 0.1},
        lambda o: o.values,
    ),
    "Nonlinear": (
        inverse.Nonlinear,
        {"function": lambda x: x[..., 0], "values": torch.zeros(1, 16), "noise_std": 0.1},
        lambda o: o.values,
    ),
    "MomentMatching": (
        inverse.MomentMatching,
        {"denoiser": ORACLE, "observation": SEEN, "spectrum": fnodiff.Matern(1.0), "iterations": 2, "tolerance": 0.1},
        estimate,
    ),
    "PiGDM": (inverse.PiGDM, {"denoiser": ORACLE, "observation": SEEN, "sigma_data": 0.5, "iterations": 2}, estimate),
    "DPS": (inverse.DPS, {"denoiser": ORACLE, "observation": SEEN, "scale": 1.0}, estimate),
    "MatchModes": (
        inverse.MatchModes,
        {"denoiser": ORACLE, "low": X[:1, :, ::4, ::4], "iterations": 1, "tolerance": 0.1},
        nothing,
    ),
    "twisted": (
        inverse.twisted,
        {
            "denoiser": ORACLE,
            "observation": SEEN,
            "shape": 4,
            "seeds": [0],
            "particles": 2,
            "spectrum": None,
            "steps": 2,
            "batch": 2,
        },
        lambda x: x,
    ),
    "annealed": (
        inverse.annealed,
        {
            "denoiser": ORACLE,
            "observation": SEEN,
            "shape": 4,
            "seeds": [0],
            "steps": 2,
            "inner": 1,
            "step_size": 0.5,
            "directions": 2,
            "spectrum": None,
            "spacing": None,
            "batch": 1,
        },
        lambda x: x,
    ),
    "posterior": (
        inverse.posterior,
        {"denoiser": ORACLE, "observation": SEEN, "shape": 4, "seeds": [0], "method": inverse.MomentMatching},
        lambda x: x,
    ),
    "assimilate": (
        inverse.assimilate,
        {"denoiser": ORACLE, "observations": [SEEN], "shape": 4, "seeds": [0], "start": None, "states": 1},
        lambda x: x,
    ),
    "smooth": (
        inverse.smooth,
        {"denoiser": ORACLE, "observations": [SEEN], "shape": 4, "seeds": [0], "start": None},
        lambda x: x,
    ),
    "Trajectory": (inverse.Trajectory, {"denoiser": ORACLE, "length": 2, "states": 1}, nothing),
    # networks
    "DFU": (
        fnodiff.DFU,
        {
            "in_channels": 4,
            "out_channels": 1,
            "n_modes": (4, 4),
            "hidden_channels": 8,
            "channel_mult": (1,),
            "num_blocks": 0,
            "spectral_levels": 1,
            "attention_levels": (),
            "domain": BOX,
            "reference": (16, 16),
            "local": "conv",
            "boundary": None,
            "dropout": 0.1,
            "num_classes": 0,
            "condition_channels": 0,
            "condition_numbers": 0,
            "positional_modes": 1,
            "zero_init": False,
        },
        nothing,
    ),
    "SpectralConv": (
        layers.SpectralConv,
        {"in_channels": 4, "out_channels": 2, "n_modes": (4, 4), "domain": TORUS},
        output,
    ),
    "CosineConv": (
        layers.CosineConv,
        {
            "in_channels": 4,
            "out_channels": 2,
            "n_modes": (4, 4),
            "domain": BOX,
            "kernels": "even",
            "bias": True,
            "rank": 0.5,
        },
        output,
    ),
    "LocalConv": (
        layers.LocalConv,
        {"in_channels": 4, "out_channels": 2, "domain": BOX, "kernel_size": 3, "reference": (8, 8), "resize": "pool"},
        nothing,
    ),
    "DualConv": (
        layers.DualConv,
        {
            "in_channels": 4,
            "out_channels": 4,
            "domain": BOX,
            "n_modes": (4, 4),
            "local": "conv",
            "reference": None,
            "init_scale": 1.0,
        },
        nothing,
    ),
    "Attention": (layers.Attention, {"channels": 4, "domain": BOX, "init_scale": 1.0}, nothing),
    "GroupNorm": (layers.GroupNorm, {"channels": 4, "domain": BOX}, nothing),
    # data
    "ArrayFields": (
        ArrayFields,
        {
            "x": FIELDS,
            "field": None,
            "label": None,
            "condition": None,
            "condition_names": None,
            "domain": BOX,
            "mask": None,
            "channel_axis": 1,
        },
        first,
    ),
    "ArrayFields on a globe": (
        ArrayFields,
        {"x": np.ones((2, 3, 4)), "latitudes": [90, 0, -90], "longitudes": [0, 90, 180, 270]},
        lambda s: s.batch([0], s.shape if hasattr(s, "shape") else (3, 4))["x"],
    ),
    "ArrayFields.open": (ArrayFields.open, {"path": FOLDER / "x.npy", "domain": BOX}, first),
    "LatLon": (LatLon, {"latitudes": [90, 0, -90], "longitudes": [0, 90, 180, 270]}, lambda g: g(torch.ones(3, 4))),
    "HDF5Fields": (HDF5Fields, {"path": FOLDER / "x.h5", "allow_incomplete": False}, first),
    "ImageFolder": (
        ImageFolder,
        {"path": FOLDER / "pictures", "channels": 3, "labels": None, "smallest": None, "on_error": "raise"},
        first,
    ),
    "InMemory": (InMemory, {"fields": SOURCE, "shapes": [8], "chunk": 2, "progress": False}, first),
    "Chunks": (Chunks, {"size": 2, "together": 2, "scan": 4}, nothing),
    "Records": (
        Records,
        {
            "records": RECORDS,
            "x": "x",
            "label": "y",
            "condition": None,
            "domain": BOX,
            "channels": 3,
            "channel_axis": None,
            "classes": 2,
        },
        first,
    ),
    "Stream": (
        Stream,
        {
            "records": RECORDS,
            "x": "x",
            "label": "y",
            "length": 2,
            "shuffle": 2,
            "scan": 2,
            "condition": None,
            "domain": BOX,
            "channels": 3,
            "channel_axis": None,
            "classes": 2,
        },
        first,
    ),
    "Part": (Part, {"fields": SOURCE, "indices": [0, 2], "names": None}, first),
    "Upsampled": (Upsampled, {"fields": SOURCE, "shape": (4, 4), "domain": BOX}, first),
    "WithNumbers": (WithNumbers, {"fields": SOURCE, "condition": [0.0, 1.0, 2.0, 3.0], "names": "time"}, first),
    "Augmented": (Augmented, {"fields": SOURCE, "maps": [lambda x: x.flip(-1)]}, first),
    "Augmentation": (
        Augmentation,
        {"probability": 0.5, "mirror": True, "shift": 0.1, "turn": 10.0, "scale": 0.2},
        lambda a: data(augmentation=a)[0]["x"],
    ),
    "MultiResolution": (
        MultiResolution,
        {"fields": SOURCE, "domain": BOX, "shapes": [8, 16], "weights": None, "batch_size": 2, "warmup": 0, "seed": 0},
        lambda d: d[0]["x"],
    ),
    "source.batch": (SOURCE.batch, {"indices": [0, 1], "shape": (8, 8)}, lambda b: b["x"]),
    "Terrain": (
        Terrain,
        {
            "count": 1,
            "seed": 0,
            "window": 16,
            "held_out": False,
            "strip": (0, 120),
            "centre": False,
            "scale": 1.0,
            "flip": False,
        },
        nothing,
    ),
    "to_xarray": (
        to_xarray,
        {"samples": X, "domain": BOX, "names": None, "units": None, "seeds": None, "mask": None},
        nothing,
    ),
    "from_xarray": (from_xarray, {"dataset": to_xarray(X, BOX), "variables": None, "domain": BOX, "time": None}, first),
    "write_fields": (
        write_fields,
        {
            "path": FOLDER / "y.h5",
            "source": SOURCE,
            "shapes": [8],
            "attributes": SAID,
            "dtype": None,
            "length": None,
            "chunk": 2,
            "progress": False,
        },
        nothing,
    ),
    # equations
    "Poisson": (
        equations.Poisson,
        {"count": 1, "seed": 0, "wavenumber": 0.0, "target": "pair", "fine": 16, "keep": 1},
        first,
    ),
    "Darcy": (
        equations.Darcy,
        {"count": 1, "seed": 0, "kind": "log-normal", "fine": 16, "scale": 1.0, "keep": 1},
        first,
    ),
    "NavierStokes": (
        equations.NavierStokes,
        FLOW,
        first,
    ),
    "Burgers": (
        equations.Burgers,
        FLOW,
        lambda source: source.batch([0], (8,))["x"],
    ),
    "CahnHilliard": (
        equations.CahnHilliard,
        {
            "count": 1,
            "seed": 0,
            "domain": TORUS,
            "width": 0.1,
            "time": 0.001,
            "mean": 0.0,
            "fine": 16,
            "dt": None,
            "keep": 1,
        },
        first,
    ),
    # training
    "Adam": (
        train.Adam,
        {"lr": 1e-3, "rampup": 1, "decay": 0.1, "clip": 1.0, "ema_halflife": 10, "betas": (0.9, 0.99)},
        nothing,
    ),
    "Execution": (
        train.Execution,
        {"accelerator": None, "save_every": 10, "workers": 0, "seed": 0, "shard": False},
        nothing,
    ),
    "Logging": (train.Logging, {"progress": False, "callback": None, "preview": None}, nothing),
    "Preview": (
        train.Preview,
        {"shapes": [8], "seeds": [0], "every": 10, "solver": None, "plan": None, "batch": 1},
        nothing,
    ),
    "MovingAverage": (train.MovingAverage, {"model": NET, "device": "cpu"}, nothing),
    "fit": (
        train.fit,
        {
            "model": MODEL,
            "data": MultiResolution(SOURCE, BOX, [8], batch_size=2),
            "steps": 1,
            "minutes": None,
            "folder": None,
            "resume": False,
            "loss": None,
            "optimizer": None,
            "logging": QUIET,
        },
        nothing,
    ),
    # metrics
    "coverage": (
        metrics.coverage,
        {"samples": FIELDS[:, None], "y": X[:1], "domain": BOX, "level": 0.5},
        lambda v: torch.tensor(v[0]),
    ),
    "crps": (metrics.crps, {"samples": FIELDS[:, None], "y": X[:1], "domain": BOX, "mask": None}, lambda v: v),
    "energy_score": (
        metrics.energy_score,
        {"samples": FIELDS[:, None], "y": X[:1], "domain": BOX, "mask": None},
        lambda v: v,
    ),
    "rank_histogram": (
        metrics.rank_histogram,
        {"samples": FIELDS[:, None], "y": X[:1], "domain": BOX, "mask": None},
        lambda v: v,
    ),
    "relative_l2": (metrics.relative_l2, {"x": FIELDS, "y": FIELDS + 1, "domain": BOX, "mask": None}, lambda v: v),
    "radial_spectrum": (metrics.radial_spectrum, {"x": FIELDS, "domain": BOX}, lambda v: v[1]),
    "spectrum_error": (metrics.spectrum_error, {"x": FIELDS, "y": 2 * FIELDS, "domain": BOX}, torch.tensor),
    "spectral_slope": (metrics.spectral_slope, {"x": FIELDS, "domain": BOX, "band": (1.0, 6.0)}, torch.tensor),
    "sliced_wasserstein": (
        metrics.sliced_wasserstein,
        {"x": FIELDS, "y": 2 * FIELDS, "projections": 4, "seed": 0},
        torch.tensor,
    ),
    "kernel_distance": (metrics.kernel_distance, {"x": torch.randn(9, 3), "y": torch.randn(9, 3)}, torch.tensor),
    "frechet_distance": (metrics.frechet_distance, {"x": torch.randn(9, 3), "y": torch.randn(9, 3)}, torch.tensor),
    "patches": (metrics.patches, {"x": FIELDS, "size": 3, "stride": 2, "limit": 10}, lambda v: v),
    "patch_distance": (metrics.patch_distance, {"x": FIELDS, "y": FIELDS + 1, "size": 3}, torch.tensor),
    "slope_statistics": (metrics.slope_statistics, {"x": FIELDS, "domain": BOX, "quantiles": (0.5,)}, lambda v: v[0]),
    "global_coherence": (metrics.global_coherence, {"x": FIELDS, "y": FIELDS, "domain": BOX, "shape": (4, 4)}, nothing),
}

np.save(FOLDER / "x.npy", FIELDS.numpy())
write_fields(FOLDER / "x.h5", SOURCE, [8], attributes=SAID, progress=False)
(FOLDER / "pictures").mkdir()
Image.fromarray(np.zeros(768, dtype="uint8").reshape(16, 16, 3)).save(FOLDER / "pictures" / "one.png")
