"""The ensemble Kalman filter: perturbed observations, covariances localised by distance, anomalies inflated.

Of members x_i, their values at the sensors h_i, and draws e_i of the sensors' errors, which sum to zero,

    x_i + K (y + e_i - h_i),    K = (L_xs * cov(x, h)) (L_ss * cov(h, h) + R)^-1,

L the function of Gaspari and Cohn of the distance over c, which is zero from 2 c on. Before, members are moved away from their
mean by the factor `inflation`.

Sources: Evensen (1994), Sequential data assimilation with a nonlinear quasi-geostrophic model; Burgers, van Leeuwen, Evensen
(1998), Analysis scheme in the ensemble Kalman filter; Gaspari, Cohn (1999), Construction of correlation functions in two and
three dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain
from fnodiff.inverse import PointObservation


def gaspari_cohn(r: Tensor) -> Tensor:
    """Their fifth-order function of distances in units of c: 1 at 0, 0 from 2 on."""
    r = r.abs().clamp(max=2.0)
    near = 1 - 5 / 3 * r**2 + 5 / 8 * r**3 + r**4 / 2 - r**5 / 4
    far = 4 - 5 * r + 5 / 3 * r**2 + 5 / 8 * r**3 - r**4 / 2 + r**5 / 12 - 2 / (3 * r.clamp(min=1.0))
    return torch.where(r < 1, near, far).clamp(min=0.0)


def distances(domain: Domain, a: Tensor, b: Tensor) -> Tensor:
    """Between points a (dim, n) and b (dim, m): (n, m), the short way around periodic axes."""
    sides = torch.tensor(domain.lengths, dtype=a.dtype)[:, None, None]
    away = (a[:, :, None] - b[:, None]).abs()
    periodic = torch.tensor([edge == "periodic" for edge in domain.edges])[:, None, None]
    return torch.where(periodic, torch.minimum(away, sides - away), away).norm(dim=0)


@dataclass
class EnKF:
    """The filter of one-channel states on a grid.

    Args:
        domain: Of the states.
        radius: c of the localisation, in the domain's units; math.inf for none.
        inflation: Factor of the forecasts' anomalies, 1 or more.
    """

    domain: Domain
    radius: float = math.inf
    inflation: float = 1.0

    def analysis(self, x: Tensor, seen: PointObservation, generator: torch.Generator) -> Tensor:
        """Members (N, 1, *shape) given one observation of them."""
        shape, points = tuple(x.shape[2:]), seen.points.double()
        mean = x.mean(0, keepdim=True)
        x = (mean + self.inflation * (x - mean)).double()
        h = self.domain.evaluate(x, points)[:, 0]
        draws = torch.randn(h.shape, generator=generator, dtype=h.dtype)
        errors = seen.noise_std.double() * (draws - draws.mean(0)) * math.sqrt(len(x) / (len(x) - 1))
        dx, dh = (v - v.mean(0) for v in (x.flatten(1), h))
        cross, gram = dx.T @ dh / (len(x) - 1), dh.T @ dh / (len(x) - 1)
        if self.radius < math.inf:
            places = self.domain.points(shape, dtype=torch.float64).flatten(1)
            cross = cross * gaspari_cohn(distances(self.domain, places, points) / self.radius)
            gram = gram * gaspari_cohn(distances(self.domain, points, points) / self.radius)
        gram = gram + seen.noise_std.double().square() * torch.eye(len(gram), dtype=gram.dtype)
        moved = torch.linalg.solve(gram, (seen.values[0] + errors - h).T)
        return (x + (cross @ moved).T.view_as(x)).to(mean)

    def run(
        self,
        start: Tensor,
        observations: Sequence[PointObservation | None],
        forecast: Callable[[Tensor, int], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Members (T, N, 1, *shape) at the times of the observations, of a start (N, 1, *shape) at time 0.

        Args:
            forecast: (members, t) -> members at time t.
        """
        x, found = start, []
        for t, seen in enumerate(observations, 1):
            x = forecast(x, t)
            x = x if seen is None else self.analysis(x, seen, generator)
            found.append(x)
        return torch.stack(found)
