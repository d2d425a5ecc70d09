"""Data assimilation: ensembles of states that are carried forward in time, each step under what its sensors saw.

A sample of the model is a window: W consecutive states x_{s+1}, .., x_{s+W}, as channels, the earliest first; W = 1 is the
usual model of the next state. At time t a member's window ends at t, or begins at 1 where there is no time for that. It is
sampled given its sensors up to t, and, of a model that is conditioned on a field, given the member's own state before it,

    x_{s+1}, .., x_{s+W} ~ p( . | x_s, y_{s+1}, .., y_t),    s = max(0, t - W),

with x_s as the window before had it, which has seen the sensors up to t - 1. The member's state at t is the window's.

Members are not weighted: what y_t says about states before the window is left out. If p is right, members and truth are
exchangeable, so that the spread is as large as the error; both fall to those of the exact filter as windows grow longer than
what the dynamics remember. Windows that begin at time 1, of a model without a field, leave nothing out. Where the next state is
a function of the present one, the state before the window would fix all: there, take windows without a field.

Sources: Shysheya, Diaconu, Bergamin, Perdikaris, Hernandez-Lobato, Turner, Mathieu (2024), On conditional diffusion models for
PDE simulations; Rozet, Louppe (2023), Score-based data assimilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape, as_floats
from fnodiff.expected import kinds_checked
from fnodiff.inverse.guided import Guided
from fnodiff.inverse.moment_matching import MomentMatching
from fnodiff.inverse.observation import Observation
from fnodiff.sde.denoiser import Denoiser, channels_of, check_finite
from fnodiff.sde.sampling import check_denoiser, sample, seed_list


@kinds_checked(but=("denoiser", "observations", "seeds", "shape", "method", "start"))
def assimilate(
    denoiser: Denoiser,
    observations: Sequence[Observation | None],
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    start: Tensor | None = None,
    states: int = 1,
    method: Callable[..., Guided] = MomentMatching,
    **options: Any,
) -> Tensor:
    """An ensemble's states at the times 1 .. T, each given the sensors up to its time: (T, members, C, *shape), in data units.

    Args:
        denoiser: Of windows of `states` consecutive states as channels, (B, states * C, *shape): of `Model.for_data` with the
            state before as "field", or without; or a `Trajectory` of such windows.
        observations: What was seen of the state at each of the times, None where nothing was; values are the same for all
            members, or one row for each.
        shape: The states' grid; an int for as many points on each side.
        seeds: One for each member. With the same seeds a member is the same function on every grid.
        start: The members' states at time 0, (members, C, *any grid), for a model with a field. None: windows stand alone, and
            what sensors said before a window is forgotten.
        states: W, how many states a sample of the model has.
        method: A guided denoiser's class such as `MomentMatching`, or `partial(MomentMatching, iterations=8)`.
        options: Of `sample`: solver=, batch=, device= and so on.

    Raises:
        ValueError: If there are no times, the channels are no such windows, the start does not fit the seeds, or the method is
            none.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.inverse import PointObservation, assimilate
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))  # each state forgets the one before
        >>> middle = torch.tensor([[0.5]])
        >>> seen = [PointObservation(middle, torch.tensor([[value]]), noise_std=0.1) for value in (2.0, -1.0)]
        >>> x = assimilate(denoiser, seen, 16, seeds=range(8))
        >>> [round(float(Box(1).evaluate(members, middle).mean())) for members in x]
        [2, -1]
    """
    size, seeds, seen = _checked("assimilate", denoiser, observations, shape, seeds, states, method, options)
    before = None if start is None else _start("assimilate", denoiser, start, size[0], len(seeds))
    window, found = None, []
    for t in range(1, len(seen) + 1):
        first = max(0, t - states)  # the time before the window
        if start is not None and first:
            before = window[:, : size[0]]
        own = [int(np.random.SeedSequence([seed, t]).generate_state(1, np.uint64)[0] >> 1) % 2**32 for seed in seeds]
        window = _sampled(denoiser, seen[first:t], size, own, method, field=before, **options)
        found.append(window[:, (t - first - 1) * size[0] : (t - first) * size[0]])
    return torch.stack(found)


@kinds_checked(but=("denoiser", "observations", "seeds", "shape", "method", "start"))
def smooth(
    denoiser: Denoiser,
    observations: Sequence[Observation | None],
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    start: Tensor | None = None,
    method: Callable[..., Guided] = MomentMatching,
    **options: Any,
) -> Tensor:
    """An ensemble of whole trajectories, given all sensors: (T, members, C, *shape), in data units, of one window of T states.

    Arguments are those of `assimilate`. The model's samples have as many states as there are times: make a `Trajectory` of
    them out of a model of fewer.

    Raises:
        ValueError: As `assimilate`.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
        >>> from fnodiff.inverse import PointObservation, Trajectory, smooth
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
        >>> three = Trajectory(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), length=3)
        >>> seen = PointObservation(torch.tensor([[0.5]]), torch.tensor([[2.0]]), noise_std=0.1)
        >>> x = smooth(three, [None, seen, None], 16, seeds=range(8))
        >>> x.shape, round(float(x[1, :, 0, 8].mean()))
        (torch.Size([3, 8, 1, 16]), 2)
    """
    size, seeds, seen = _checked("smooth", denoiser, observations, shape, seeds, None, method, options)
    before = None if start is None else _start("smooth", denoiser, start, size[0], len(seeds))
    window = _sampled(denoiser, seen, size, seeds, method, field=before, **options)
    return window.unflatten(1, (len(seen), size[0])).transpose(0, 1)


class Window(Observation):
    """What was seen of some of a window's states, as one observation of all its channels.

    Args:
        observations: Of the first states, None where nothing was seen; one or more are not None.
        size: (C, *shape) of a state.
        domain: Of the states.
    """

    def __init__(self, observations: Sequence[Observation | None], size: Shape, domain: Domain) -> None:
        self.seen = {i: one for i, one in enumerate(observations) if one is not None}
        self.states, rows, errors = size[0], [], []
        for one in self.seen.values():
            predicted = one(torch.zeros(1, *size), domain)
            rows.append(one.targets(predicted.expand(_count(one, predicted), *predicted.shape[1:])))
            errors.append(one.errors(rows[-1]).expand_as(rows[-1]))
        count = max(map(len, rows))
        values, noise_std = (torch.cat([_rows(v, count) for v in each], 1) for each in (rows, errors))
        super().__init__(values, noise_std)
        self.linear = all(one.linear for one in self.seen.values())

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        c = self.states
        return torch.cat(
            [one(x[:, i * c : (i + 1) * c], domain).reshape(len(x), -1) for i, one in self.seen.items()], 1
        )


def _count(observation: Observation, predicted: Tensor) -> int:
    """How many samples an observation is of: 1 of one that all share."""
    return len(observation.values) if observation.values.ndim == predicted.ndim else 1


def _rows(values: Tensor, count: int) -> Tensor:
    values = values.reshape(len(values), -1)
    return values.expand(count, -1) if len(values) == 1 else values


def _sampled(
    denoiser: Denoiser,
    observations: Sequence[Observation | None],
    size: Shape,
    seeds: Sequence[int],
    method: Callable[..., Guided],
    *,
    field: Tensor | None,
    **options: Any,
) -> Tensor:
    """A window of each member, (members, W C, *shape)."""
    if any(one is not None for one in observations):
        denoiser = method(denoiser, Window(observations, size, denoiser.sde.domain))
    return sample(denoiser, size[1:], seeds, field=field, **options)


def _checked(
    name: str,
    denoiser: Denoiser,
    observations: Sequence[Observation | None],
    shape: Shape | int,
    seeds: Sequence[int] | int,
    states: int | None,
    method: Callable[..., Guided],
    options: Mapping[str, Any],
) -> tuple[Shape, list[int], list[Observation | None]]:
    """(C, *shape), the seeds and the observations; states None: as many as there are times."""
    check_denoiser(denoiser, None)
    if "field" in options:
        raise ValueError(
            f"{name}: expected the members' states at time 0 as start=, got field=; a window's field is its start."
        )
    if isinstance(observations, Observation) or not isinstance(observations, Sequence):
        raise ValueError(
            f"{name}: expected a list of observations, one for each time, got {type(observations).__name__}; write "
            f"[observation] for one time, and None for a time without."
        )
    wrong = [type(one).__name__ for one in observations if not (one is None or isinstance(one, Observation))]
    if not observations or wrong:
        raise ValueError(
            f"{name}: expected an observation or None for each of one or more times, got {wrong or 'none'}; pass such as "
            f"[PointObservation(points, values, noise_std), None]."
        )
    made = method.func if isinstance(method, partial) else method
    if not (isinstance(made, type) and issubclass(made, Guided)):
        raise ValueError(
            f"{name}: expected a guided denoiser's class as method, got {method!r}; pass MomentMatching, or "
            f"partial(MomentMatching, iterations=8)."
        )
    channels, states = channels_of(denoiser), len(observations) if states is None else states
    if isinstance(states, bool) or not isinstance(states, Integral) or states < 1 or channels % states:
        raise ValueError(
            f"{name}: expected a model of {states!r} states as channels, got one of {channels} channels; pass states= as many "
            f"as a sample has, or make them a Trajectory."
        )
    listed = seed_list(seeds)
    size = (channels // states, *denoiser.sde.domain.check_shape(shape))
    for number, one in enumerate(observations, 1):
        if one is not None:
            predicted = one(torch.zeros(1, *size), denoiser.sde.domain)
            if _count(one, predicted) not in (1, len(listed)):
                raise ValueError(
                    f"{name}: expected values for all members or for each of the {len(listed)}, got {len(one.values)} rows at "
                    f"time {number}; repeat or cut them."
                )
    return size, listed, list(observations)


def _start(name: str, denoiser: Denoiser, start: Any, channels: int, members: int) -> Tensor:
    """The states at time 0."""
    start = as_floats(start, "start")
    denoiser.sde.domain.check_field(start)
    if start.shape[:2] != (members, channels):
        raise ValueError(
            f"{name}: expected start with {channels} channels for each of the {members} members, got {tuple(start.shape)}; "
            f"draw as many states."
        )
    check_finite(start=start)
    return start
