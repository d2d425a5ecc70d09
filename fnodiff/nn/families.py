"""How each of neuralop's models is made, modulated at its blocks, and called as a map of fields on one grid."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import neuralop.models
from neuralop.layers.embeddings import GridEmbeddingND
from neuralop.layers.fno_block import FNOBlocks
from torch import Tensor, nn

from fnodiff.domain import Domain, Product, Shape, Torus
from fnodiff.nn.exact import coordinates

NAMES = ("FNO", "TFNO", "SFNO", "UNO", "CODANO", "GINO")
OPERATORS = tuple(
    getattr(neuralop.models, name) for name in NAMES if hasattr(neuralop.models, name)
)  # SFNO may be missing
"""neuralop's models that can be networks, and those that are derived from them."""


class Modulation(nn.Module):
    """h <- (1 + A e) h + B e, and then the block. A and B begin at zero.

    Args:
        block: What is modulated, called as block(h, index, ...) if there are several in it.
        channels: Of h.
        embedding: Channels of e.
        count: Blocks in it, if it is neuralop's `FNOBlocks`.
    """

    def __init__(self, block: nn.Module, channels: int, embedding: int, count: int = 1) -> None:
        super().__init__()
        self.block = block
        self.maps = nn.ModuleList([nn.Linear(embedding, 2 * channels) for _ in range(count)])
        for linear in self.maps:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.embedding: Tensor | None = None
        """e of the samples at hand, (B, embedding)."""

    @property
    def n_layers(self) -> int:
        """Of FNOBlocks, which neuralop's models ask for it."""
        return self.block.n_layers

    def forward(self, h: Tensor, index: int = 0, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, channels, *any) -> what the block makes of it."""
        factor, shift = self.maps[index](self.embedding)[(..., *(None,) * (h.ndim - 2))].chunk(2, dim=1)
        h = h + factor * h + shift
        if isinstance(self.block, FNOBlocks):
            return self.block(h, index, output_shape=output_shape)
        return self.block(h, output_shape=output_shape)


class FNOFamily:
    """FNO and what is derived from it: blocks of one width on one grid."""

    @staticmethod
    def make(
        kind: type[nn.Module],
        inputs: int,
        outputs: int,
        domain: Domain,
        reference: Shape | None,
        options: dict[str, Any],
    ) -> nn.Module:
        options.setdefault("positional_embedding", _places(domain, inputs))
        return _construct(kind, domain, options, "n_modes", in_channels=inputs, out_channels=outputs)

    @staticmethod
    def modulate(operator: nn.Module, inputs: int, embedding: int) -> None:
        blocks = operator.fno_blocks
        operator.fno_blocks = Modulation(blocks, operator.hidden_channels, embedding, blocks.n_layers)

    @staticmethod
    def mix(operator: nn.Module, inputs: int, outputs: int) -> nn.Module | None:
        return None

    @staticmethod
    def call(operator: nn.Module, x: Tensor, domain: Domain, reference: Shape | None) -> Tensor:
        return operator(x)


class UNOFamily(FNOFamily):
    """UNO: blocks on grids whose ratios to the input's are fixed."""

    @staticmethod
    def make(
        kind: type[nn.Module],
        inputs: int,
        outputs: int,
        domain: Domain,
        reference: Shape | None,
        options: dict[str, Any],
    ) -> nn.Module:
        dim, width = domain.dim, options.setdefault("hidden_channels", 32)
        modes = options.pop("n_modes", None) or options.get("uno_n_modes") or (8,) * dim
        options.setdefault("uno_scalings", [[s] * dim for s in (1.0, 0.5, 1.0, 2.0, 1.0)])
        layers = len(options["uno_scalings"])
        options.setdefault("n_layers", layers)
        options.setdefault("uno_out_channels", [width] * layers)
        options.setdefault("channel_mlp_skip", "linear")  # neuralop's own default needs blocks of one width
        options["uno_n_modes"] = [list(modes)] * layers if _is_flat(modes) else modes
        options.setdefault("positional_embedding", _places(domain, inputs))
        return _construct(kind, domain, options, "hidden_channels", in_channels=inputs, out_channels=outputs)

    @staticmethod
    def modulate(operator: nn.Module, inputs: int, embedding: int) -> None:
        made = [Modulation(block, block.in_channels, embedding) for block in operator.fno_blocks]
        operator.fno_blocks = nn.ModuleList(made)

    @staticmethod
    def call(operator: nn.Module, x: Tensor, domain: Domain, reference: Shape | None) -> Tensor:
        """On a grid that the scalings divide, at least as fine as x's: then no skip connection changes grids."""
        shape = tuple(x.shape[2:])
        each = [1 / min(math.prod(s[: i + 1]) for i in range(len(s))) for s in zip(*operator.uno_scalings, strict=True)]
        even = tuple(max(1, round(e)) * -(-n // max(1, round(e))) for n, e in zip(shape, each, strict=True))
        return operator(x) if even == shape else domain.resample(operator(domain.resample(x, even)), shape)


class CODANOFamily(FNOFamily):
    """CODANO: each channel is a variable, and blocks attend from variable to variable."""

    @staticmethod
    def make(
        kind: type[nn.Module],
        inputs: int,
        outputs: int,
        domain: Domain,
        reference: Shape | None,
        options: dict[str, Any],
    ) -> nn.Module:
        if domain.dim == 1:
            raise ValueError(
                f"NeuralOperator: expected two dimensions or three, as neuralop's CODANO has no others, got {domain}; take FNO."
            )
        modes, layers = options.get("n_modes") or (8,) * domain.dim, options.setdefault("n_layers", 4)
        options["n_modes"] = [list(modes)] * layers if _is_flat(modes) else modes
        options.setdefault("n_heads", [2] * layers)
        options.setdefault("attention_scaling_factors", [1] * layers)
        options.setdefault("per_layer_scaling_factors", [[1] * domain.dim] * layers)
        options.setdefault("domain_padding", None)
        return _construct(kind, domain, options, "n_modes")

    @staticmethod
    def modulate(operator: nn.Module, inputs: int, embedding: int) -> None:
        channels = (inputs + bool(operator.enable_cls_token)) * operator.hidden_variable_codimension
        made = [Modulation(layer, channels, embedding) for layer in operator.attention_layers]
        operator.attention_layers = nn.ModuleList(made)

    @staticmethod
    def mix(operator: nn.Module, inputs: int, outputs: int) -> nn.Module:
        if operator.use_positional_encoding or operator.static_channel_dim or not operator.projection:
            raise ValueError(
                "NeuralOperator: expected CODANO without use_positional_encoding and static_channel_dim and with "
                "projection_channels, got other arguments; a conditioning field comes as field=."
            )
        return nn.Conv1d(inputs * operator.output_variable_codimension, outputs, 1)


class GINOFamily(FNOFamily):
    """GINO on the points of the field's grid, with a latent grid that all grids share."""

    @staticmethod
    def make(
        kind: type[nn.Module],
        inputs: int,
        outputs: int,
        domain: Domain,
        reference: Shape | None,
        options: dict[str, Any],
    ) -> nn.Module:
        radius = 1.5 / min(_latent(domain, reference))
        defaults = {"fno_n_modes": (8,) * domain.dim, "gno_coord_dim": domain.dim, "gno_use_open3d": False}
        defaults |= {"fno_in_channels": inputs, "gno_use_torch_scatter": False}
        defaults |= {"in_gno_radius": radius, "out_gno_radius": radius}
        options = {**defaults, **options}
        return _construct(kind, domain, options, "fno_n_modes", in_channels=inputs, out_channels=outputs)

    @staticmethod
    def modulate(operator: nn.Module, inputs: int, embedding: int) -> None:
        blocks = operator.fno_blocks
        operator.fno_blocks = Modulation(blocks, operator.fno_hidden_channels, embedding, blocks.n_layers)

    @staticmethod
    def call(operator: nn.Module, x: Tensor, domain: Domain, reference: Shape | None) -> Tensor:
        shape, latent = tuple(x.shape[2:]), _latent(domain, reference)
        points = coordinates(domain, shape, x.dtype, x.device).flatten(1).T[None]
        queries = coordinates(domain, latent, x.dtype, x.device).movedim(0, -1)[None]
        out = operator(input_geom=points, latent_queries=queries, output_queries=points, x=x.flatten(2).mT)
        return out.mT.reshape(x.shape[0], -1, *shape)


def _places(domain: Domain, inputs: int) -> str | nn.Module | None:
    """The coordinates that are input: none along periodic axes, where those of a Product are zero; those of a Sphere."""
    if isinstance(domain, Product):
        return GridEmbeddingND(inputs, domain.dim, [[0.0, 0.0 if closed else 1.0] for closed in domain.periodic])
    return None if isinstance(domain, Torus) else "grid"


def _latent(domain: Domain, reference: Shape | None) -> Shape:
    return domain.shape_of(16) if reference is None else reference


def _is_flat(modes: Any) -> bool:
    """Whether these are the modes of each axis, rather than such a row for each layer."""
    return isinstance(modes, Sequence) and isinstance(modes[0], Integral)


def family_of(kind: Any) -> type[FNOFamily]:
    """How a class of neuralop's is made, modulated and called."""
    families = {"UNO": UNOFamily, "CODANO": CODANOFamily, "GINO": GINOFamily, "FNO": FNOFamily}
    for name, family in families.items():
        if isinstance(kind, type) and issubclass(kind, getattr(neuralop.models, name)):
            return family
    names = ", ".join(operator.__name__ for operator in OPERATORS)
    raise ValueError(
        f"NeuralOperator: expected one of neuralop's {names}, or a class derived from one, got {kind!r}; other networks are "
        f"given to Model as they are, and called as net(x, noise_level)."
    )


def arguments_of(operator: nn.Module) -> dict[str, Any]:
    """What a model of neuralop's was made with, but for its channels, and functions and classes that are the default."""
    if not hasattr(operator, "_init_kwargs"):
        name = type(operator).__name__
        raise ValueError(
            f"NeuralOperator: expected a model that remembers its arguments, got {name}, which does not; pass the class: "
            f"NeuralOperator({name}, in_channels, out_channels, ...)."
        )
    known = {name: value for name, value in operator._init_kwargs.items() if name not in ("_version", "_name", "args")}
    own = (inspect.signature(base).parameters for base in type(operator).__mro__ if "__init__" in vars(base))
    parameters = next(p for p in own if all(v.kind is not v.VAR_POSITIONAL for v in p.values()))  # TFNO's are FNO's
    given = {**dict(zip(parameters, operator._init_kwargs.get("args", ()), strict=False)), **known}
    if "positional_embedding" in parameters:  # which has another default here
        given.setdefault("positional_embedding", parameters["positional_embedding"].default)
    return {
        name: value
        for name, value in given.items()
        if name not in ("in_channels", "out_channels")
        and not (callable(value) and name in parameters and value is parameters[name].default)
    }


def makes_itself(kind: type[nn.Module]) -> bool:
    """Whether a class has arguments of its own, and none for channels."""
    parameters = inspect.signature(kind.__init__).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return not kind.__module__.startswith("neuralop.") and not anything and "in_channels" not in parameters


def made_by_itself(
    kind: type[nn.Module], inputs: int, outputs: int, domain: Domain, options: dict[str, Any]
) -> nn.Module:
    """A model of such a class, which has to have these channels."""
    made = _construct(kind, domain, options, "n_modes")
    got = tuple(getattr(made, name, wanted) for name, wanted in (("in_channels", inputs), ("out_channels", outputs)))
    if got != (inputs, outputs):
        raise ValueError(
            f"NeuralOperator: expected {kind.__name__} to take {inputs} channels and give {outputs}, got {got[0]} and "
            f"{got[1]}; let its __init__ take in_channels and out_channels."
        )
    return made


def _construct(
    kind: type[nn.Module], domain: Domain, options: dict[str, Any], modes: str, **channels: int
) -> nn.Module:
    """A model of neuralop's, which print to the terminal when they are made."""
    flat = options.get(modes)
    if _is_flat(flat) and len(flat) != domain.dim:
        raise ValueError(
            f"NeuralOperator: expected {modes} with one number per axis of {domain}, got {tuple(flat)}; name {domain.dim}."
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return kind(**channels, **options)
    except (TypeError, AssertionError, KeyError) as error:
        raise ValueError(
            f"NeuralOperator: expected arguments of {kind.__name__}, got {sorted(options)} ({type(error).__name__}: {error}); "
            f"see {kind.__module__.removesuffix(f'.{kind.__name__.lower()}')}.{kind.__name__}."
        ) from error
