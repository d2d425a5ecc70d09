"""What denoisers hold for each sample, and other mistakes in sampling that once passed in silence."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from fnodiff import (
    DFU,
    EDM,
    Box,
    Cascade,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    Torus,
    WhiteNoise,
    sample,
)
from fnodiff.inverse import MatchModes
from fnodiff.sde import Autoguided, ClassifierFree, GaussianDenoiser, Given, Normalization, ReplaceModes, log_likelihood

LINE, QUICK = Torus(1), DPMSolver(3)
FIELD = GaussianRandomField(LINE, Matern(1.0, 0.3))
SDE = FunctionSpaceSDE(WhiteNoise(LINE, (16,)), EDM())


def oracle(**known):
    return GaussianDenoiser(FIELD, SDE, **known)


def low(count):
    return FIELD.sample((count, 1, 8), generator=torch.Generator().manual_seed(0))


def classes(**options):
    torch.manual_seed(0)
    return Model(DFU.tiny(1, 1, num_classes=2, domain=LINE, zero_init=False, **options), SDE, EDMScaling()).eval()


def with_numbers(*names):
    torch.manual_seed(0)
    model = Model(DFU.tiny(1, 1, condition_numbers=2, domain=LINE), SDE, EDMScaling()).eval()
    model.condition_names = names
    return model


HELD = {
    "replaced": lambda count: ReplaceModes(oracle(), low(count)),
    "matched": lambda count: MatchModes(oracle(), low(count)),
    "guided": lambda count: Autoguided(oracle(), ReplaceModes(oracle(), low(count))),
    "given": lambda count: Given(classes(), label=[i % 2 for i in range(count)]),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("batch", [1, 2, 32])
def test_as_many_rows_as_seeds(name, batch):
    with pytest.raises(ValueError, match=r"got (4|torch.int64 .4,.)|batch of .4, 1."):
        sample(HELD[name](4), 16, [0, 1], batch=batch, solver=QUICK)
    with pytest.raises(ValueError, match=r"got (2|torch.int64 .2,.)|batch of .2, 1."):
        sample(HELD[name](2), 16, [0, 1, 2], batch=batch, solver=QUICK)
    x = sample(HELD[name](3), 16, [0, 1, 2], batch=batch, solver=QUICK)
    torch.testing.assert_close(x, sample(HELD[name](3), 16, [0, 1, 2], solver=QUICK), rtol=1e-4, atol=1e-4)


UNITS = [oracle(normalization=Normalization(mean, 1.0)) for mean in (101325.0, 101400.0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(oracle(), 16, [7, 7 + 2**32]), r"from 0 to 2\*\*32 - 1"),
        (lambda: sample(oracle(), 16, [0], hold=3, plan=Cascade([(8,)], through=())), "hold as a wrapper .*, got 3"),
        (lambda: Box(2).derivative(torch.zeros(1, 2, 8, 8), -1), "axis from 0 to 1, of space alone, got -1"),
        (lambda: LINE.derivative(torch.zeros(1, 1, 8), 1), "axis from 0 to 0"),
        (lambda: Autoguided(*UNITS), "same process and units"),
        (
            lambda: Autoguided(with_numbers("viscosity", "lead"), with_numbers("lead", "viscosity")),
            "guide of the numbers",
        ),
        (lambda: sample(classes(), 16, [0, 1], solver=QUICK, label=np.array([0.0, 1.0])), "whole numbers, or shares"),
        (lambda: sample(Given(classes(), label=[0, 1]), 16, [0, 1], solver=QUICK, label=1), "than the bound one"),
        (lambda: Heun(9, churn=9.0, churn_min=3, churn_max=1), "churn_max >= churn_min"),
        (lambda: ClassifierFree(classes(), math.inf), "finite scale"),
    ],
)
def test_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_seeds_up_to_the_last_differ():
    x = sample(oracle(), 16, [0, 7, 2**31, 2**32 - 1], solver=QUICK).flatten(1)
    assert float(torch.pdist(x).min()) > 0.1


def test_a_likelihood_without_autograd_around_it():
    x = low(2)
    with torch.inference_mode():
        inside = log_likelihood(oracle(), x.clone())
    torch.testing.assert_close(inside, log_likelihood(oracle(), x))


def test_numbers_where_tensors_are_meant():
    x = FIELD.sample((1, 1, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        LINE.filter(x, lambda eigenvalues: 2.0), LINE.filter(x, lambda e: 2 * torch.ones_like(e))
    )
    network = DFU.tiny(1, 1, domain=LINE, zero_init=False).eval()
    torch.testing.assert_close(network(x, 0.5), network(x, torch.tensor(0.5)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_an_oracle_can_be_sent_to_another_process(copied):
    torch.testing.assert_close(sample(copied(oracle()), 16, [3]), sample(oracle(), 16, [3]))
