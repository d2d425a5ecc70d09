"""Bad data, runs and measures: each is a ValueError that says how to mend it, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import Drawn
from refused import BOX, NAN, ORACLE, TORUS, X, data, model, net, refused

from fnodiff import DenoisingLoss, MultiResolution, Sphere, fit, metrics
from fnodiff.data import ArrayFields, InMemory, Upsampled
from fnodiff.train import Adam, Execution, Logging, Preview, freeze, mixed_finetune

# What is wrong, what it says.
CALLS = {
    # data and training
    "a shape twice": (lambda: data(shapes=[16, 16]), r"name each shape once"),
    "batches of nothing": (lambda: data(batch_size=0), r"batch_size >= 1"),
    "weights below nothing": (lambda: data(weights=[-1.0]), r"weights >= 0"),
    "a grid that was not kept": (lambda: InMemory(Drawn(2), [(16, 16)], progress=False).batch([0], (8, 8)), r"add it"),
    "arrays without a domain": (lambda: ArrayFields(np.zeros(4)), r"pass domain="),
    "arrays of no axes": (lambda: ArrayFields(np.zeros(4), domain=BOX), r"\(N, C, \*grid\)"),
    "arrays of infinity": (lambda: ArrayFields(np.full((2, 8, 8), np.inf), domain=BOX), r"mend them"),
    "channels behind the globe": (lambda: ArrayFields(np.zeros((2, 8, 16, 3)), domain=Sphere()), r"channel_axis=-1"),
    "longitudes without latitudes": (
        lambda: ArrayFields(np.zeros((2, 8, 16)), longitudes=np.arange(16.0)),
        r"pass the other too",
    ),
    "upsampling to a mixed grid": (lambda: Upsampled(Drawn(2), (32, 32), BOX).batch([0], (64, 16)), r"as fine as"),
    "data on another domain": (
        lambda: fit(model(), MultiResolution(Drawn(4), TORUS, [16], batch_size=2), 1),
        r"one domain for both",
    ),
    "images for batches": (
        lambda: fit(model(), Drawn(4), 1),
        r"got Model and Drawn; write such as fit\(Model.for_data",
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
        r"resume as True or False or 'auto', got 'run'",
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
    "a rate that falls for longer than the run": (lambda: Adam(decay=1.5), r"decay from 0 to 1, got 1.5"),
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
        lambda: mixed_finetune(model(), Drawn(4), (32, 32), steps=1),
        r"train it with fit",
    ),
    "a weight for two shapes": (lambda: MultiResolution(Drawn(4), BOX, [16, 8], weights=[1.0]), r"one weight for each"),
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


@pytest.mark.parametrize("case", CALLS)
def test_is_refused_with_the_mend(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[case])
    assert list(tmp_path.iterdir()) == []
