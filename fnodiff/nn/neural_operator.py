"""neuralop's models as score networks: FNO, TFNO, SFNO, UNO, CODANO, and GINO on a uniform grid.

A neuralop model maps a field to a field. A score network also depends on the noise level, and on labels, numbers and fields if
the model has such conditions. `NeuralOperator` gives a model both: with e the embedding of a sample's noise level, label and
numbers, the features h that enter block l become

    h <- (1 + A_l e) h + B_l e,

one factor and one shift for each channel, at every block. A conditioning field is given as further input channels.

neuralop's layers depend on the grid: spectral convolutions are wrong on odd grids, coordinates are those of points i / n
whatever the domain, and grids are changed by bicubic interpolation between corners. They are replaced (`fnodiff.nn.exact`) by
`SpectralConv` and `SphericalConv` with the same weights, by the domain's points, and by its `resample`. Where there are walls
`boundary="even"` replaces them by `CosineConv` or `MixedConv`, which take a field as reflected there.

Source: Perez, Strub, de Vries, Dumoulin, Courville (2018), FiLM: visual reasoning with a general conditioning layer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import neuralop.models
from torch import Tensor, nn

from fnodiff.domain import Box, Domain, Shape, Sphere
from fnodiff.nn.conditions import Conditioned
from fnodiff.nn.cosine import KERNELS
from fnodiff.nn.exact import made_exact
from fnodiff.nn.families import Modulation, arguments_of, family_of, made_by_itself, makes_itself


class NeuralOperator(Conditioned):
    """One of neuralop's models as the network of a `Model`, modulated at every block.

        model = Model.for_data(data, network=NeuralOperator.of(FNO, n_modes=(12, 12), hidden_channels=32))
        model = Model(NeuralOperator(FNO, 1, 1, n_modes=(12, 12), hidden_channels=32, domain=Torus(2)), sde, EDMScaling())

    What is not named has a default that suits a score network: coordinates as input on Box and Sphere and between the walls of
    a Product, and none along the axes of a Torus, which have no place of their own; UNO on two levels; GINO with a latent grid
    of `reference`'s points, and radii of 1.5 of its spacings.

    Args:
        operator: neuralop's class: FNO, TFNO, SFNO (on Sphere), UNO, CODANO or GINO, or your own that is derived from one of
            these. Or a model of it, trained or not, that takes in_channels + condition_channels channels.
        in_channels: Channels that the network sees of a field: `scaling.inputs(channels)`. Of a model they are its own.
        out_channels: Channels of the result.
        domain: What fields are functions on; Box(2) by default.
        reference: The largest grid trained on, on which only GINO's latent grid depends.
        num_classes, condition_channels, condition_numbers, augmentation_numbers: As for `DFU`.
        embedding_channels: Of the embedding e.
        boundary: Of the spectral layers where there are walls. "periodic", neuralop's: a field is taken as periodic there too,
            so that one wall feels the other; coordinates tell the network where it is, and domain_padding= keeps walls apart.
            "even" or "all", of a class alone: a field is taken as reflected, by `CosineConv` or `MixedConv` of as many modes.
        options: The arguments of neuralop's class, such as n_modes and hidden_channels.

    Raises:
        ValueError: If the operator is none of these, channels are missing, or it does not fit the domain.

    Examples:
        >>> import torch
        >>> from neuralop.models import FNO
        >>> from fnodiff import Torus
        >>> from fnodiff.nn import NeuralOperator
        >>> net = NeuralOperator(FNO, 1, 1, n_modes=(6, 6), hidden_channels=8, n_layers=2, domain=Torus(2))
        >>> net(torch.randn(2, 1, 15, 20), noise_level=torch.zeros(2)).shape  # any grid
        torch.Size([2, 1, 15, 20])
    """

    def __init__(
        self,
        operator: type[nn.Module] | nn.Module,
        in_channels: int | None = None,
        out_channels: int | None = None,
        *,
        domain: Domain | None = None,
        reference: Sequence[int] | None = None,
        num_classes: int = 0,
        condition_channels: int = 0,
        condition_numbers: int = 0,
        augmentation_numbers: int = 0,
        embedding_channels: int = 128,
        boundary: str = "periodic",
        **options: Any,
    ) -> None:
        super().__init__()
        self.domain = domain = Box(2) if domain is None else domain
        self.num_classes, self.condition_channels = num_classes, condition_channels
        self.condition_numbers, self.augmentation_numbers = condition_numbers, augmentation_numbers
        self.reference = None if reference is None else domain.check_shape(reference)
        made, kind = isinstance(operator, nn.Module), operator if isinstance(operator, type) else type(operator)
        family = family_of(kind)
        if isinstance(domain, Sphere) != issubclass(kind, getattr(neuralop.models, "SFNO", ())):
            raise ValueError(
                f"NeuralOperator: expected SFNO on a Sphere and another operator elsewhere, got {kind.__name__} on {domain}; "
                f"take the other."
            )
        if boundary not in ("periodic", *KERNELS) or (boundary != "periodic" and (made or "wall" not in domain.edges)):
            raise ValueError(
                f'NeuralOperator: expected boundary="periodic", or of a class and where there are walls one of {KERNELS}, got '
                f"{boundary!r} for {'a model' if made else 'a class'} on {domain}; leave it out."
            )
        if made:
            options = {**arguments_of(operator), **options}
            channels = operator.in_channels - condition_channels
            given = (in_channels, out_channels)
            if not all(a in (None, b) for a, b in zip(given, (channels, operator.out_channels), strict=True)):
                raise ValueError(
                    f"NeuralOperator: expected a model's own channels, {channels} without those of a conditioning field and "
                    f"{operator.out_channels}, got {given}; leave them out."
                )
            in_channels, out_channels = channels, operator.out_channels
        if not all(isinstance(n, Integral) and n > 0 for n in (in_channels, out_channels)):
            raise ValueError(
                f"NeuralOperator: expected positive in_channels and out_channels, got {in_channels!r} and {out_channels!r}; "
                f"name them, or give Model.for_data, which knows them, NeuralOperator.of({kind.__name__}, ...)."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self._options = {"operator": kind, "embedding_channels": embedding_channels, **options}
        if boundary != "periodic":
            self._options["boundary"] = boundary
        inputs = in_channels + condition_channels
        if not made and makes_itself(kind):
            operator = made_by_itself(kind, inputs, out_channels, domain, copy.deepcopy(options))
        elif not made:
            operator = family.make(kind, inputs, out_channels, domain, self.reference, copy.deepcopy(options))
        made_exact(operator, domain, boundary)
        self._make_embeddings(embedding_channels // 2, embedding_channels)
        family.modulate(operator, inputs, embedding_channels)
        self.operator = operator
        self.mix = family.mix(operator, inputs, out_channels)
        self._call = family.call

    @classmethod
    def of(cls, operator: type[nn.Module], **options: Any) -> Callable[..., NeuralOperator]:
        """The constructor with the operator and its options named: what `Model.for_data(data, network=...)` takes.

        Examples:
            >>> from neuralop.models import FNO
            >>> from fnodiff.nn import NeuralOperator
            >>> NeuralOperator.of(FNO, n_modes=(6, 6), hidden_channels=8)(2, 1).in_channels
            2
        """
        family_of(operator)
        return functools.partial(cls, operator, **options)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("in_channels", "out_channels", "domain", "reference", "num_classes", "condition_channels")
        names += ("condition_numbers", "augmentation_numbers")
        return {**{name: getattr(self, name) for name in names}, **self._options}

    @property
    def modulations(self) -> list[Modulation]:
        """Where the features are modulated, block by block."""
        return [module for module in self.operator.modules() if isinstance(module, Modulation)]

    @property
    def spectral_modes(self) -> Shape | None:
        """Modes per axis of the finest spectral layer, which a training grid has to hold; None if there are several kinds."""
        modes = self._options.get("n_modes", self._options.get("fno_n_modes"))
        plain = modes is not None and all(isinstance(n, Integral) for n in modes)
        return tuple(modes) if plain else None

    def forward(
        self,
        x: Tensor,
        noise_level: Tensor,
        *,
        label: Tensor | None = None,
        field: Tensor | None = None,
        condition: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """The network's output (B, out_channels, *spatial) on x's own grid; arguments and errors as of `DFU`."""
        self.domain.check_field(x)
        self._check_field(x)
        emb = self._embedding(x, noise_level, label, condition, augmentation)
        x = self._with_field(x, field)
        modulations = self.modulations
        for modulation in modulations:
            modulation.embedding = emb
        try:
            out = self._call(self.operator, x, self.domain, self.reference)
        finally:
            for modulation in modulations:
                modulation.embedding = None
        return out if self.mix is None else self.mix(out.flatten(2)).unflatten(2, out.shape[2:])

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """As torch's: without the arguments that neuralop's models put among their tensors."""
        tensors = super().state_dict(*args, **options)
        tensors.pop("_metadata", None)
        return tensors
