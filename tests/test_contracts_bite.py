"""The contracts fail when a constant is changed: each is run as it is, and again with one thing broken."""

from __future__ import annotations

import math
from functools import partial

import pytest
import test_contracts_domain
import test_contracts_noise
import test_contracts_plans
import test_contracts_solvers
import torch

from fnodiff.domain import Box, Sphere, Torus
from fnodiff.sde import (
    DDIM,
    EDM,
    VE,
    VP,
    DPMSolver,
    EulerMaruyama,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Noise,
    WhiteNoise,
    sampling,
    stages,
)


def scaled(factor):
    """Multiplies what a method returns."""
    return lambda method: lambda *args, **options: method(*args, **options) * factor


def matern(domain):
    return GaussianRandomField(domain, Matern(1.0, 0.3))


def first_order_only(method):
    return lambda self, denoiser, x, t, s, memory, noise: method(self, denoiser, x, t, s, None, noise)


def half_the_correction(method):
    """Heun's average of slopes with weights that do not sum to one."""
    return lambda self, *args: (torch.lerp(method(self, *args)[0], DDIM(2).step(*args)[0], 0.1), None)


def louder(method):
    """A step whose fresh noise is half as large again in variance."""
    return lambda self, denoiser, x, t, s, memory, noise: method(
        self, denoiser, x, t, s, memory, lambda x: math.sqrt(1.5) * noise(x)
    )


def scaled_state(factor):
    """Multiplies the state that a step returns."""
    return lambda method: lambda *args: (method(*args)[0] * factor, None)


domains, noises, schedules = (
    test_contracts_domain.TestDomain(),
    test_contracts_noise.TestNoise(),
    test_contracts_noise.TestSchedule(),
)
order = partial(test_contracts_solvers.TestSolver().test_order_against_the_closed_form_flow, Torus(1))
law = test_contracts_solvers.test_stochastic_solvers_have_the_right_law_on_gaussian_data
staged, planned = test_contracts_plans.TestStages(), test_contracts_plans.TestPlannedStages()

CASES = {
    "new modes 1% too large": (
        (sampling, "emerged", scaled(1.01)),
        partial(
            staged.test_going_on_is_exact_in_law_at_any_change_of_grid, Box(2), "white", EDM(0.01, 1000.0), (0.8, 0.5)
        ),
    ),
    "held modes 1% too large": (
        (sampling, "on_cells", scaled(1.01)),
        partial(staged.test_holding_is_exact_in_law_and_keeps_what_was_sampled, Box(1), "white", EDM(0.01, 1000.0)),
    ),
    "times that are not translated between grids": (
        (stages, "_translate", lambda f: lambda denoiser, times, grid, finest: times),
        partial(
            planned.test_a_grid_takes_over_when_its_new_modes_reach_the_budget,
            Box(1),
            "pixel",
            EDM(0.01, 1000.0),
            0.1,
        ),
    ),
    "a change of grid too late": (
        (stages, "_total", scaled(0.8)),
        partial(
            planned.test_a_grid_takes_over_when_its_new_modes_reach_the_budget,
            Torus(1),
            "matern",
            EDM(0.01, 1000.0),
            0.1,
        ),
    ),
    "a half-spectrum's modes count once": (
        (Torus, "multiplicity", lambda f: lambda *a, **k: f(*a, **k).clamp(max=1)),
        partial(domains.test_parseval_on_what_it_keeps, Torus(2), (9, 12)),
    ),
    "analyze is 1% too large": (
        (Box, "analyze", scaled(1.01)),
        partial(domains.test_synthesize_analyze_projects_on_the_modes_of_the_grid, Box(2), (9, 12)),
    ),
    "a harmonic 1% too large": (
        (Sphere, "from_orders", scaled(1.01)),
        partial(domains.test_synthesize_analyze_projects_on_the_modes_of_the_grid, Sphere(), (9, 17)),
    ),
    "points that weigh alike on the sphere": (
        (Sphere, "weights", lambda f: Torus.weights),
        partial(domains.test_parseval_on_what_it_keeps, Sphere("equiangular"), (9, 17)),
    ),
    "degrees' eigenvalues l^2": (
        (Sphere, "eigenvalues", lambda f: lambda self, *a, **k: (f(self, *a, **k) + 0.25).sqrt().sub(0.5).square()),
        partial(domains.test_filter_is_a_function_of_the_laplacian, Sphere(), (9, 17)),
    ),
    "noise 5% too large": (
        (Noise, "sample", scaled(1.05)),
        partial(noises.test_variance_per_shell_of_modes, Torus(2), matern, [32, 32], True),
    ),
    "trace 0.1% too large": (
        (GaussianRandomField, "std", scaled(1.0005)),
        partial(noises.test_mean_variance_is_one, Box(2), matern),
    ),
    "white noise that grows with the grid": (
        (WhiteNoise, "sample", lambda f: lambda self, shape, **k: f(self, shape, **k) * shape[-1] / 32),
        partial(
            noises.test_one_seed_is_one_function_on_every_grid_and_in_any_batch,
            Box(2),
            lambda domain: WhiteNoise(domain, (32, 32)),
            [64, 64],
        ),
    ),
    "a time 0.1% late": ((VP, "time", scaled(1.001)), partial(schedules.test_time_inverts_the_ratio, VP())),
    "a diffusion 1% too large": (
        (FunctionSpaceSDE, "diffusion", scaled(1.01)),
        partial(schedules.test_forward_sde_has_these_marginals, VP()),
    ),
    "Heun with a tenth of Euler": ((Heun, "step", half_the_correction), partial(order, Heun, 2.0, VP())),
    "DPM-Solver without its memory": ((DPMSolver, "step", first_order_only), partial(order, DPMSolver, 2.0, EDM())),
    "a step 0.1% too large": ((DDIM, "step", scaled_state(1.001)), partial(order, DDIM, 1.0, VP())),
    "a reverse SDE with too much noise": (
        (EulerMaruyama, "step", louder),
        partial(law, Torus(1), EulerMaruyama, VE()),
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_contract_fails_when_something_is_broken(case, monkeypatch):
    (owner, name, break_it), contract = CASES[case]
    contract()
    monkeypatch.setattr(owner, name, break_it(getattr(owner, name)))
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        contract()
