"""Model: a network made into a denoiser, which is what is trained, saved, loaded and sampled."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fnodiff import checkpoint
from fnodiff.domain import Domain, Shape
from fnodiff.expected import kinds_checked
from fnodiff.sde import (
    EDM,
    Denoiser,
    EDMScaling,
    FunctionSpaceSDE,
    Noise,
    Normalization,
    Scaling,
    Schedule,
    WhiteNoise,
    measure_normalization,
    noise_levels,
)
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.spectrum import spectrum_of
from fnodiff.sde.suited_noise import suited_noise

INCLUDED = Path(__file__).parent / "models"


class Batches(Protocol):
    """What a model is made for: `fnodiff.data.MultiResolution`, or your own batches on several grids."""

    domain: Domain
    shapes: list[Shape]

    @property
    def native_shapes(self) -> Sequence[Shape]:
        """The shapes on which the samples are not upsampled ones."""

    @property
    def cell_averages(self) -> bool:
        """Whether values are averages over the cells of a grid."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels name."""

    def __getitem__(self, step: int) -> Mapping[str, Tensor]:
        """{"x": (B, C, *shape), ...}."""

    def samples(self, count: int, shape: Shape) -> Mapping[str, Tensor]:
        """The first `count` samples, or as many as there are, on one grid."""


@kinds_checked
class Model(Denoiser):
    """A network under a scaling: D(x_t, t) = skip + out(F(input, noise_level)), see `fnodiff.sde.scaling`.

    Args:
        network: F, called as `F(x, noise_level, **condition)`: (B, scaling.inputs(C), *spatial), (B,) -> (B, C, *spatial).
            One of neuralop's models, which know no noise level, becomes `fnodiff.nn.NeuralOperator(model, domain=...)`.
        sde: The process.
        scaling: How the network's numbers become an estimate.
        normalization: Data units to those of x; none by default.
        condition_normalization: By name, "field" or "condition": the units of a condition to those that the network sees.
        spectrum: S of the normalised data, such as `fit_spectrum` returns.
        cell_averages: Whether fields are averages over cells, as images are.
        channels: C; by default the network's `out_channels`, if it has any.

    Raises:
        ValueError: If the network is on another domain or takes another number of channels than the scaling gives it, or the
            scaling needs a spectrum and there is none.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), reference=(32, 32)), EDM())
        >>> model = Model(DFU.tiny(3, 3), sde, EDMScaling(sigma_data=0.5))
        >>> model(sde.prior((1, 3, 24, 40)), torch.ones(())).shape  # any grid
        torch.Size([1, 3, 24, 40])
    """

    def __init__(
        self,
        network: nn.Module,
        sde: FunctionSpaceSDE,
        scaling: Scaling,
        *,
        normalization: Normalization | None = None,
        condition_normalization: Mapping[str, Normalization] | None = None,
        spectrum: Spectrum | None = None,
        cell_averages: bool = False,
        channels: int | None = None,
    ) -> None:
        network = _with_noise_level(network, sde)
        taken, given = (getattr(network, name, None) for name in ("in_channels", "out_channels"))
        channels = given if channels is None else channels
        super().__init__(
            sde,
            normalization=normalization,
            condition_normalization=condition_normalization,
            spectrum=spectrum,
            cell_averages=cell_averages,
            channels=channels,
        )
        maker = isinstance(network, type | functools.partial) or isinstance(
            getattr(network, "__self__", None), type
        )  # DFU, DFU.small
        if not callable(network) or maker:
            raise ValueError(f"Model: expected a network, got {network!r}; pass such as DFU.small(3, 3).")
        if not isinstance(scaling, Scaling):
            raise ValueError(f"Model: expected a scaling, got {scaling!r}; pass such as EDMScaling(sigma_data=0.5).")
        if channels is not None:
            sde.noise.check_channels(channels)
        domain = getattr(network, "domain", sde.domain)
        if domain != sde.domain:
            raise ValueError(
                f"Model: expected a network on {sde.domain}, as the noise is, got one on {domain}; use one domain for both."
            )
        if scaling.needs_spectrum and spectrum is None:
            raise ValueError(
                f"Model: expected the data's spectrum, as {type(scaling).__name__} needs it, got none; pass "
                f"spectrum=fit_spectrum(normalization(fields), domain), or make the model with Model.for_data."
            )
        if None not in (taken, channels) and taken != scaling.inputs(channels):
            raise ValueError(
                f"Model: expected a network that takes {scaling.inputs(channels)} channels for fields of {channels}, under "
                f"{scaling}, got {taken}; build it with {scaling.inputs(channels)} input channels."
            )
        self.network, self.scaling = network, scaling
        numbers = int(getattr(network, "condition_numbers", 0))
        self.condition_names = ("condition",) if numbers == 1 else tuple(f"condition {i}" for i in range(numbers))

    @classmethod
    def for_data(
        cls,
        data: Batches,
        network: Callable[..., nn.Module],
        *,
        noise: Noise | None = None,
        schedule: Schedule | None = None,
        scaling: Scaling | None = None,
        samples: int = 2048,
    ) -> Model:
        """A model for these data: units and spectrum are measured, noise, scaling and reference grid chosen.

        For cell averages, as images are: white noise with the largest training shape as reference, EDM's schedule and
        scaling, and the linear estimate as a further input. For values at points: noise a little rougher than each channel, of
        at most three derivatives, and white where a channel is rougher than any field; a schedule between the noise levels
        that the spectrum asks for; EDM's scaling with the linear estimate. Modes without energy do not count. What is named
        is not chosen. `docs/choosing.md` has the measurement behind each choice.

        Args:
            data: What it will be trained on, with its domain and shapes.
            network: A constructor, called as network(inputs, outputs, domain=, reference=, num_classes=, condition_channels=),
                such as `DFU.small`; of data that numbers condition also with condition_numbers=, of augmented ones with
                augmentation_numbers=.
            noise, schedule, scaling: To be used instead of those chosen.
            samples: How many samples the spectrum is measured on.

        Raises:
            ValueError: If the data cannot be measured, or what is named does not fit.

        Warns:
            UserWarning: If a noise or a schedule that is named does not suit the data (`FunctionSpaceSDE.check`).

        Examples:
            >>> import torch
            >>> from fnodiff import DFU, GaussianRandomField, Matern, Model, MultiResolution, Torus
            >>> from fnodiff.data import ArrayFields
            >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
            >>> x = field.sample((64, 1, 32), generator=torch.Generator().manual_seed(0))
            >>> data = MultiResolution(ArrayFields(x, domain=Torus(1)), Torus(1), shapes=[16, 32], batch_size=8)
            >>> model = Model.for_data(data, DFU.tiny)
            >>> model.channels, model.training_shapes, type(model.sde.noise).__name__
            (1, ((16,), (32,)), 'GaussianRandomField')
        """
        if not all(hasattr(data, name) for name in ("domain", "native_shapes", "samples")):
            got = data.__name__ if isinstance(data, type) else type(data).__name__
            raise ValueError(
                f"for_data: expected batches on several grids, got {got}; write such as MultiResolution(source, "
                f"Box(2), [16, 32])."
            )
        domain, reference = data.domain, max(data.native_shapes, key=math.prod)
        averages, named = bool(data.cell_averages), noise is not None or schedule is not None
        sigma_data = 0.5 if scaling is None else scaling.sigma_data
        normalization = measure_normalization(data, sigma_data)
        some = data.samples(samples, reference)
        x = normalization(some["x"])
        if "mask" in some:  # what is missing counts as the mean, as in the loss
            x = torch.where(some["mask"] > 0, x, 0.0)
        spectrum = spectrum_of(x, domain, cell_averages=averages)
        conditions = {name: measure_normalization(data, key=name) for name in ("field", "condition") if name in some}
        if noise is None:
            noise = WhiteNoise(domain, reference) if averages else suited_noise(domain, spectrum, reference)
        if schedule is None:
            schedule = EDM() if averages else EDM(*noise_levels(noise, spectrum, reference))
        scaling = EDMScaling(sigma_data, linear_estimate=True) if scaling is None else scaling
        channels = x.shape[1]
        options = {"domain": domain, "reference": reference, "num_classes": int(data.num_classes)}
        options["condition_channels"] = some["field"].shape[1] if "field" in some else 0
        if "condition" in some:
            options["condition_numbers"] = some["condition"].shape[1]
        if (augmentation := getattr(data, "augmentation", None)) is not None:
            options["augmentation_numbers"] = augmentation.count(domain)
        made = _network(network, scaling.inputs(channels), channels, options)
        sde = FunctionSpaceSDE(noise, schedule)
        noise.check_channels(channels)
        if named:
            sde.check(spectrum, reference, stacklevel=3)
        model = cls(
            made,
            sde,
            scaling,
            normalization=normalization,
            condition_normalization=conditions,
            spectrum=spectrum,
            cell_averages=averages,
            channels=channels,
        )
        model.training_shapes = tuple(data.native_shapes)
        model.condition_names = tuple(getattr(data, "condition_names", ())) or model.condition_names
        return model

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("network", "sde", "scaling", "normalization", "condition_normalization", "spectrum", "cell_averages")
        return {name: getattr(self, name) for name in (*names, "channels")}

    @property
    def sigma_data(self) -> float:
        return self.scaling.sigma_data

    @property
    def uniform_time(self) -> bool:
        """Whether it is trained at times even in [0, 1]: the scaling's."""
        return self.scaling.uniform_time

    @property
    def noise_law(self) -> tuple[float, float]:
        """Mean and standard deviation of ln(sigma / alpha) to train at: the scaling's."""
        return self.scaling.noise_law(self.sde, self.spectrum)

    def loss_weight(self, t: Tensor, shape: Shape) -> Tensor:
        """The weight of |D - x|^2 under which the network's error counts alike at all t: of t's shape, or (*t.shape, C)."""
        return self.scaling.loss_weight(self.sde, self.spectrum, t, shape)

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.sde.domain.check_field(x_t)
        if getattr(self.network, "in_channels", None) not in (None, self.scaling.inputs(x_t.shape[1])):
            raise ValueError(
                f"Model: expected fields of {self.channels} channels, got shape {tuple(x_t.shape)}; check the channel axis."
            )
        scaled = self.scaling(self.sde, self.spectrum, x_t, t)
        seen = {name: self._seen(name, value) for name, value in condition.items()}
        out = self.network(self._cast(scaled.input), self._cast(scaled.noise_level), **seen)
        if getattr(out, "shape", None) != x_t.shape:  # torch would stretch axes of one
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"Model: expected the network to return a tensor {tuple(x_t.shape)}, as the fields are, got {got}; mend its "
                f"channels or its padding."
            )
        return scaled.skip + scaled.out(out.to(x_t.dtype))

    def _seen(self, name: str, value: Tensor) -> Tensor:
        """A condition as the network sees it."""
        if name == "field":
            self.sde.domain.check_field(value)
        if name in self.condition_normalization:
            value = self.condition_normalization[name](value)
        return self._cast(value) if value.is_floating_point() else value

    def _cast(self, x: Tensor) -> Tensor:
        """In the precision of the network's weights."""
        weight = next(self.network.parameters(), x) if isinstance(self.network, nn.Module) else x
        return x.to(weight.dtype) if weight.is_floating_point() else x

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write the model into a folder, new or not: `config.json` and `model.safetensors`, each replaced in one move.

        Args:
            folder: Where to.
            dtype: Of the weights in the file: torch.float16 or torch.bfloat16 for half the bytes. They are loaded as float32.

        Raises:
            ValueError: If a part of the model cannot be described (not a dataclass, no `config`).
        """
        known: dict[str, Any] = {"training_shapes": [list(shape) for shape in self.training_shapes]}
        if self.condition_names:
            known["condition_names"] = list(self.condition_names)
        if self.drop_condition is not None:
            known["drop_condition"] = float(self.drop_condition)
        return checkpoint.write(Path(folder), self, known, dtype)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, classes: Sequence[type] = (), revision: str | None = None
    ) -> Model:
        """Read a model from a folder, by the name of one that comes with fnodiff, or from the hub by its id "owner/name".

        Args:
            source: A folder written by `save_pretrained` or `fit`, a name (`fnodiff.model.included()` lists them), or a hub id.
                A `Path`, and a text that begins with "." or "/" or ends like a file, is never looked for on the hub.
            classes: Your own classes that config.json may name, beside fnodiff's.
            revision: Of the hub's repository.

        Returns: The model on the CPU, in evaluation mode.

        Raises:
            ValueError: If files are missing or broken, config.json names a class that is not allowed or arguments that it does
                not take, or tensors are missing, left over or of the wrong shape.

        Examples:
            >>> import tempfile
            >>> from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
            >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
            >>> folder = tempfile.TemporaryDirectory()
            >>> path = Model(DFU.tiny(1, 1), sde, EDMScaling()).save_pretrained(folder.name)
            >>> Model.from_pretrained(folder.name).sde == sde
            True
        """
        folder = Path(source)
        if not folder.is_dir():
            name = os.fspath(source)
            if name in included():
                folder = INCLUDED / name
            else:
                folder = checkpoint.download(source if isinstance(source, str) else folder, revision, included())
        model, known = checkpoint.read(folder, (cls, *classes))
        if not isinstance(model, Model):
            raise ValueError(
                f"{folder / checkpoint.CONFIG}: expected a Model, got {type(model).__name__}; save the whole model."
            )
        shapes = known.get("training_shapes", [])
        if not isinstance(shapes, list):
            raise ValueError(
                f"{folder / checkpoint.CONFIG}: expected a list as training_shapes, got {str(shapes)[:80]}; save it again."
            )
        model.training_shapes = tuple(model.sde.domain.check_shape(shape) for shape in shapes)
        model.condition_names = tuple(map(str, known.get("condition_names", model.condition_names)))
        model.drop_condition = d if isinstance(d := known.get("drop_condition"), int | float) else None
        checkpoint.load_tensors(model, folder / checkpoint.MODEL)
        return model.eval()

    def push_to_hub(self, repo: str, measured: object, *, licence: str, description: str, **options: Any) -> str:
        """Upload the model with its card; see `fnodiff.hub.push_to_hub`. Returns the commit's address."""
        from fnodiff.hub import push_to_hub

        return push_to_hub(self, repo, measured, licence=licence, description=description, **options)


def _is_neuralops(kind: Any) -> bool:
    return isinstance(kind, type) and any(base.__module__.startswith("neuralop.models") for base in kind.__mro__)


def _with_noise_level(network: Any, sde: FunctionSpaceSDE) -> Any:
    """The network; of neuralop's models one that reads the noise level at every block."""
    if not _is_neuralops(type(network)):
        return network
    from fnodiff.nn import NeuralOperator  # loads neuralop, which is loaded if one of its models is there

    return NeuralOperator(network, domain=getattr(sde, "domain", None))


def _network(network: Callable[..., nn.Module], inputs: int, outputs: int, options: dict[str, Any]) -> nn.Module:
    """A network, by its constructor."""
    wanted = "expected a network's constructor such as DFU.small"
    kind = network.func if isinstance(network, functools.partial) else network
    if _is_neuralops(kind):
        raise ValueError(
            f"for_data: {wanted}, got neuralop's {kind.__name__}, which takes no noise level; pass "
            f"fnodiff.nn.NeuralOperator.of({kind.__name__}, ...) with its arguments."
        )
    if not callable(network) or isinstance(network, nn.Module):
        got = type(network).__name__ if isinstance(network, nn.Module) else repr(network)
        raise ValueError(f"for_data: {wanted}, got {got}; pass DFU.small, or write Model(network, sde, scaling).")
    try:
        inspect.signature(network).bind(inputs, outputs, **options)
    except TypeError as error:
        name = getattr(network, "__qualname__", repr(network))
        raise ValueError(
            f"for_data: {wanted}, called as network(inputs, outputs, {', '.join(options)}), got {name} with other arguments "
            f"({error}); pass such as DFU.small or partial({name}, ...)."
        ) from error
    return network(inputs, outputs, **options)


def included() -> list[str]:
    """The names of the models that come with fnodiff."""
    return sorted(folder.name for folder in INCLUDED.glob("*") if (folder / checkpoint.CONFIG).is_file())
