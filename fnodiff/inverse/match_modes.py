"""Known low modes, from which the others learn: moment matching in place of replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.inverse.guided import Guided, check_iterations, covariance, frozen
from fnodiff.sde.denoiser import Denoiser, check_count
from fnodiff.sde.replace import ReplaceModes
from fnodiff.sde.spectrum import residual_variance, spectra


@kinds_checked
class MatchModes(ReplaceModes):
    """A denoiser that knows a field's low modes: x given x_t and these, as for a Gaussian of the right mean and covariance.

    `ReplaceModes` sets the known modes c and leaves the others as the network estimates them from x_t, where noise hides c.
    Here the others learn what c says about them,

        x_hat + M A^T (A M A^T)^-1 (c - A x_hat),    M = (sigma^2 / alpha) C J^T,

    with A the projection on the known modes and J the denoiser's Jacobian, so that M is the covariance of x given x_t. The
    system is solved by conjugate residuals, preconditioned by the covariance that a stationary Gaussian prior of the data's
    spectrum has. Exact for Gaussian laws, stationary or not, with enough iterations; of laws with several modes it weighs
    these somewhat wrongly (`python -m benchmarks.exactness`). Each iteration costs a backward pass of the network.

    Use it as `upscale(model, low, shape, seeds, solver=DPMSolver(24, EvenLogSNR()), hold=MatchModes)`, which takes some
    three times the network's passes that `upscale` takes by default; with other settings by `functools.partial`.

    Args:
        denoiser: Of fields without anything known, with a spectrum.
        low: (B, C, *small), normalised: point values of the field's part below that grid's band limit.
        iterations: At most, of the solver.
        tolerance: Where the solver stops, for each sample, relative.

    Raises:
        ValueError: As `ReplaceModes`; if the denoiser knows no spectrum, or the settings are not positive.

    Source: Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz (2023), Tweedie moment projected diffusions for inverse
    problems.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, upscale
        >>> from fnodiff.inverse import MatchModes
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> low = field.sample((1, 1, 8), generator=torch.Generator().manual_seed(0))
        >>> high = upscale(denoiser, low, (32,), seeds=[0, 1], hold=MatchModes)
        >>> bool((Box(1).resample(high, (8,)) - low).abs().max() < 1e-4)
        True
    """

    def __init__(self, denoiser: Denoiser, low: Tensor, *, iterations: int = 4, tolerance: float = 0.02) -> None:
        super().__init__(denoiser, low)
        if any(isinstance(module, Guided | MatchModes) for module in denoiser.modules()):
            raise ValueError(
                "MatchModes: expected a denoiser without an observation, got one that has its own, which has no Jacobian here; "
                "hold modes by ReplaceModes."
            )
        if denoiser.spectrum is None:
            raise ValueError(
                "MatchModes: expected a denoiser that knows the data's spectrum, got none; make the model with Model.for_data, "
                "or pass spectrum=fit_spectrum(fields, domain) to it."
            )
        if not 0 < tolerance < 1:
            raise ValueError(f"MatchModes: expected tolerance in (0, 1), got {tolerance!r}; 0.02 is usual.")
        self.iterations, self.tolerance = check_iterations("MatchModes", iterations), tolerance

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        sde, domain = self.sde, self.sde.domain
        shape, low = self.check(x_t), self.low.to(x_t)
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.denoiser):
            x_t, t = x_t.detach().clone().requires_grad_(), t.detach().clone()
            x_hat = self.denoiser(x_t, t, **condition)
        (alpha_t, sigma_t), noise = sde.marginal(x_t.detach(), t), sde.noise.on(shape)
        weights = domain.weights(shape, device=x_t.device, dtype=x_t.dtype)

        def whiten(y: Tensor) -> Tensor:
            def gain(eigenvalues: Tensor) -> Tensor:
                variance = residual_variance(*spectra(sde, self.spectrum, eigenvalues, shape), alpha_t, sigma_t)
                return variance.clamp(min=1e-9 * float(variance.max())).rsqrt()

            return domain.filter(y, gain)

        def learn(y: Tensor) -> Tensor:
            """M A^T of the whitened y, a field on the fine grid."""
            y = weights * domain.resample(whiten(y), shape)
            (g,) = torch.autograd.grad(x_hat, x_t, y.to(x_hat), retain_graph=True)
            return sigma_t.square() / alpha_t * covariance(domain, g, lambda k: noise.std(k).square())

        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x_t.device.type, enabled=False):
            x = x_hat.detach()
            r = whiten(low - domain.resample(x, self.small))
            enough = self.tolerance * _norm(r)
            directions: list[tuple[Tensor, Tensor]] = []
            for _ in range(self.iterations):
                going_on = _norm(r) > enough
                if not bool(going_on.any()):
                    break
                f = learn(r)
                q = whiten(domain.resample(f, self.small))
                for old_f, old_q in directions:
                    share = _dot(q, old_q)
                    f, q = f - share * old_f, q - share * old_q
                length = _norm(q).clamp(min=torch.finfo(q.dtype).tiny)
                f, q = f / length, q / length
                directions.append((f, q))
                step = _dot(r, q) * going_on
                x, r = x + step * f, r - step * q
            return x + domain.resample(low - domain.resample(x, self.small), shape)

    def among(self, count: int) -> Denoiser:
        check_count(self, count, {len(self.low)})
        return super().among(count)

    def rows(self, part: slice) -> Denoiser:
        settings = {"iterations": self.iterations, "tolerance": self.tolerance}
        return MatchModes(self.denoiser.rows(part), self.low[part], **settings)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each sample, (B, 1, ...)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
