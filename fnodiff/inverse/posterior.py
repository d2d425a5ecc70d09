"""One call for all methods: samples of a field, given what was seen of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked
from fnodiff.inverse.guided import Guided
from fnodiff.inverse.moment_matching import MomentMatching
from fnodiff.inverse.observation import Observation
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.sampling import sample
from fnodiff.sde.solvers import DPMSolver


@kinds_checked(but=("denoiser", "seeds", "shape", "method"))
def posterior(
    denoiser: Denoiser,
    observation: Observation,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    method: Callable[..., Any] | None = None,
    **options: Any,
) -> Tensor:
    """Samples of a posterior, (len(seeds), C, *shape) in data units, on the CPU.

    Args:
        denoiser: The prior's: of the field alone, or of several together such as coefficient and solution.
        observation: What was measured: `PointObservation`, or any function of the field, `Nonlinear`, such as a solver's
            solution at sensors. Of several kinds of sensors, one function that concatenates what they see, with their errors.
        shape: The samples' grid; an int for as many points on each side.
        seeds: One for each sample, or a single one.
        method: A guided denoiser's class such as `MomentMatching`, or `partial(MomentMatching, iterations=8)`, sampled;
            or a sampler that takes denoiser, observation, shape and seeds, such as `annealed` or `twisted`. By default
            MomentMatching; for an observation that is not linear with the model's spectrum, and fresh noise in 24 steps
            (`DPMSolver(24, eta=1.0)`), if the model has one. The spectrum's covariance ties no channel to another: of a model
            of several fields together, of which one is seen through a function, pass method=MomentMatching.
        options: Of `sample`, or of that sampler: solver=, steps=, batch=, label= and so on.

    Raises:
        ValueError: If the method is neither, or the options are another method's.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.inverse import PointObservation, posterior
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> seen = PointObservation(points=torch.tensor([[0.5]]), values=torch.tensor([[2.0]]), noise_std=0.1)
        >>> x = posterior(denoiser, seen, 16, seeds=range(8))
        >>> round(float(Box(1).evaluate(x, torch.tensor([[0.5]])).mean()), 1)
        2.0
    """
    if method is None:
        method = MomentMatching
        if not observation.linear and (spectrum := getattr(denoiser, "spectrum", None)) is not None:
            method, options = partial(MomentMatching, spectrum=spectrum), {"solver": DPMSolver(24, eta=1.0)} | options
        if known := {"steps", "inner", "directions"} & set(options):
            raise ValueError(
                f"posterior: expected options of sample, got {', '.join(sorted(known))}=, which annealed and twisted take; "
                f"pass method=annealed with them, or solver=DPMSolver(steps, eta=1.0)."
            )
    made = method.func if isinstance(method, partial) else method
    if isinstance(made, type) and issubclass(made, Guided):
        return sample(method(denoiser, observation), shape, seeds, **options)
    if not callable(method) or isinstance(made, type) or isinstance(method, Guided):
        raise ValueError(
            f"posterior: expected a method such as MomentMatching, annealed or twisted, got {method!r}; pass the class or the "
            f"function itself, with settings as partial(MomentMatching, iterations=8)."
        )
    return method(denoiser, observation, shape, seeds, **options)
