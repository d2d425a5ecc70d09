"""neuralop's models as networks: every block reads the conditions, the weights are neuralop's, the grid is any."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from neuralop.layers.coda_layer import CODALayer
from neuralop.layers.fno_block import FNOBlocks
from neuralop.models import CODANO, FNO, GINO, SFNO, TFNO, UNO

from fnodiff import (
    EDM,
    Box,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Product,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
    sample,
)
from fnodiff.data import ArrayFields
from fnodiff.nn import NeuralOperator
from fnodiff.train import Adam, Logging

CHANNEL = Product([Torus(1), Box(1)])
MLPS = {"in_gno_channel_mlp_hidden_layers": [8], "out_gno_channel_mlp_hidden_layers": [8]}
KINDS = {
    "FNO": (FNO, Torus(2), {"n_modes": (6, 6), "hidden_channels": 8, "n_layers": 3}),
    "FNO with norms": (FNO, Box(2), {"n_modes": (6, 6), "hidden_channels": 8, "norm": "instance_norm"}),
    "FNO, padded": (FNO, Box(1), {"n_modes": (6,), "hidden_channels": 8, "domain_padding": 0.25}),
    "FNO in 3-D": (FNO, Torus(3), {"n_modes": (4, 4, 4), "hidden_channels": 4, "n_layers": 2}),
    "TFNO": (TFNO, CHANNEL, {"n_modes": (6, 5), "hidden_channels": 8, "n_layers": 2, "rank": 0.5, "boundary": "even"}),
    "SFNO": (SFNO, Sphere(), {"n_modes": (4, 8), "hidden_channels": 8, "n_layers": 2}),
    "UNO": (UNO, CHANNEL, {"n_modes": (6, 6), "hidden_channels": 8, "boundary": "all"}),
    "CODANO": (CODANO, Torus(2), {"n_modes": (6, 6), "n_layers": 2, "hidden_variable_codimension": 4}),
    "GINO": (GINO, Box(2), {"fno_n_modes": (4, 4), "fno_hidden_channels": 8, "fno_n_layers": 2, **MLPS}),
}


def network(name, **options):
    kind, domain, chosen = KINDS[name]
    reference = (9, 16) if isinstance(domain, Sphere) else (8,) * domain.dim
    return NeuralOperator(kind, 1, 1, domain=domain, reference=reference, **chosen, **options)


def stirred(net):
    """The network with modulations that are not zero, as after training."""
    for modulation in net.modulations:
        for linear in modulation.maps:
            torch.nn.init.normal_(linear.weight, std=0.3)
    return net.eval()


def grids(domain):
    """One that all layers like, and one that has odd sides."""
    if isinstance(domain, Sphere):
        return (9, 16), (12, 21)
    sides = (12, 16, 8), (15, 21, 9)
    return tuple(side[: domain.dim] for side in sides)


def blocks_of(operator):
    """How many blocks one of neuralop's models has, whatever stands around them."""
    codas = sum(isinstance(module, CODALayer) for module in operator.modules())
    return codas or sum(module.n_layers for module in operator.modules() if isinstance(module, FNOBlocks))


GIVEN = {"label": torch.tensor([0, 1]), "condition": torch.tensor([[0.3, -1.0], [0.0, 2.0]])}
CHANGED = {
    "noise level": (torch.tensor([-1.0, 0.7]), GIVEN),
    "label": (torch.zeros(2), {**GIVEN, "label": torch.tensor([2, 0])}),
    "numbers": (torch.zeros(2), {**GIVEN, "condition": torch.tensor([[1.3, -1.0], [0.0, torch.nan]])}),
}


def deaf(net, conditions=CHANGED, blocks=None):
    """Which blocks, of these or all, leave a condition out: with the others' maps at zero it does not change the output."""
    maps = [linear for modulation in net.modulations for linear in modulation.maps]
    assert len(maps) == blocks_of(net.operator) > 0, "a block without a modulation"
    x = torch.randn(2, 1, *grids(net.domain)[0], generator=torch.Generator().manual_seed(0))
    weights, found = [linear.weight.clone() for linear in maps], []
    for index in range(len(maps)) if blocks is None else blocks:
        for number, (linear, weight) in enumerate(zip(maps, weights, strict=True)):
            linear.weight.copy_(weight * (number == index))
        out = net(x, torch.zeros(2), **GIVEN)
        for condition in conditions:
            level, given = CHANGED[condition]
            change = (net(x, level, **given) - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
            found += [(index, condition)] * (float(change.min()) < 1e-4)
    for linear, weight in zip(maps, weights, strict=True):
        linear.weight.copy_(weight)
    return found


@pytest.mark.parametrize("name", KINDS)
class TestEveryOperator:
    @torch.no_grad()
    def test_each_block_alone_reads_noise_level_label_and_numbers_and_one_that_does_not_is_found(
        self, name, monkeypatch
    ):
        net = stirred(network(name, num_classes=3, condition_numbers=2))
        assert deaf(net) == []
        for index, linear in enumerate(linear for modulation in net.modulations for linear in modulation.maps):
            with monkeypatch.context() as broken:  # this block's features go in as they are
                broken.setattr(linear, "forward", lambda e, width=linear.out_features: e.new_zeros(len(e), width))
                assert deaf(net, ["noise level"], [index]) == [(index, "noise level")]

    def test_it_runs_on_any_grid_with_a_field_of_another(self, name):
        net = network(name, condition_channels=2)
        for shape in grids(net.domain):
            x, field = torch.randn(2, 1, *shape), torch.randn(2, 2, *grids(net.domain)[0])
            one = net(x, torch.zeros(()), field=field)
            assert one.shape == x.shape and bool(one.isfinite().all())
            assert float((net(x, torch.zeros(()), field=field.flip(0)) - one).abs().max()) > 1e-5

    def test_a_model_of_it_is_saved_and_read(self, name, tmp_path):
        net = stirred(network(name, num_classes=2, condition_numbers=1))
        shape = grids(net.domain)[0]
        model = Model(net, FunctionSpaceSDE(WhiteNoise(net.domain, shape), EDM()), EDMScaling()).eval()
        tensors = model.state_dict()
        assert all(isinstance(value, torch.Tensor) for value in tensors.values()), "neuralop's _metadata"
        assert not any(value.is_complex() for value in tensors.values())
        copy.deepcopy(model).load_state_dict(tensors)
        back = Model.from_pretrained(model.save_pretrained(tmp_path))
        x, t = torch.randn(2, 1, *shape), torch.tensor([0.3, 0.9])
        given = {"label": torch.tensor([0, -1]), "condition": torch.tensor([[0.5], [torch.nan]])}
        assert torch.equal(back(x, t, **given), model(x, t, **given))
        assert Model.from_pretrained(back.save_pretrained(tmp_path / "again")).network.config == back.network.config


@pytest.mark.parametrize("kind", [FNO, TFNO, partial(TFNO, factorization="CP"), partial(FNO, separable=True)], ids=str)
def test_a_trained_model_keeps_its_weights_and_its_function(kind, tmp_path):
    given = kind(n_modes=(6, 7), in_channels=2, out_channels=1, hidden_channels=8, n_layers=2)
    x = torch.randn(3, 2, 12, 16)
    with torch.no_grad():
        expected = given(x)
        net = NeuralOperator(given, domain=Torus(2))
        torch.testing.assert_close(net(x, torch.zeros(3)), expected, rtol=1e-4, atol=1e-5)
    sde = FunctionSpaceSDE(WhiteNoise(Torus(2), (12, 16)), EDM())
    model = Model(net, sde, EDMScaling(), channels=2)
    back = Model.from_pretrained(model.save_pretrained(tmp_path))
    torch.testing.assert_close(back.network(x, torch.zeros(3)), expected, rtol=1e-4, atol=1e-5)


class Small(FNO):
    """A user's, of arguments of its own."""

    def __init__(self, width):
        super().__init__(n_modes=(6, 6), in_channels=1, out_channels=1, hidden_channels=width, n_layers=1)


def test_a_class_of_other_arguments_is_read_again(tmp_path):
    model = Model(Small(8), FunctionSpaceSDE(WhiteNoise(Box(2), (12, 16)), EDM()), EDMScaling()).eval()
    back = Model.from_pretrained(model.save_pretrained(tmp_path), classes=[Small])
    x, t = torch.randn(2, 1, 12, 16), torch.tensor([0.3, 0.9])
    assert torch.equal(back(x, t), model(x, t))


@pytest.mark.parametrize(
    ("domain", "boundary", "limit"),
    [
        (Torus(2), "periodic", 1e-4),
        (Box(2), "periodic", 0.05),
        (Box(2), "even", 1e-4),
        (CHANNEL, "periodic", 0.05),
        (CHANNEL, "even", 1e-4),
    ],
    ids=str,
)
def test_a_linear_fno_is_the_same_operator_on_every_grid(domain, boundary, limit):
    options = {"n_modes": (6, 6), "hidden_channels": 8, "use_channel_mlp": False, "non_linearity": lambda x: x}
    net = stirred(NeuralOperator(FNO, 1, 1, domain=domain, boundary=boundary, positional_embedding=None, **options))
    x = WhiteNoise(domain, (9, 9)).sample((2, 1, 15, 13))
    here, there = (domain.resample(net(v, torch.ones(())), (15, 13)) for v in (x, domain.resample(x, (33, 48))))
    error = float((there - here).norm() / here.norm())
    assert error < limit and (error > 1e-3) == (limit > 1e-3)


def test_coordinates_are_those_of_the_domains_points():
    net = NeuralOperator(FNO, 1, 1, domain=Box(1, (2.0,)), n_modes=(4,), hidden_channels=4)
    seen = net.operator.positional_embedding(torch.zeros(1, 1, 10))
    torch.testing.assert_close(seen[0, 1], (torch.arange(10) + 0.5) / 10)
    assert (
        NeuralOperator(FNO, 1, 1, domain=Torus(1), n_modes=(4,), hidden_channels=4).operator.positional_embedding
        is None
    )


WRONG = {
    "no operator": (lambda: NeuralOperator(torch.nn.Linear, 1, 1), "FNO, TFNO, SFNO, UNO, CODANO, GINO"),
    "no channels": (lambda: NeuralOperator(FNO, n_modes=(4, 4), hidden_channels=4), r"NeuralOperator.of\(FNO"),
    "other channels": (
        lambda: NeuralOperator(FNO((4, 4), 2, 1, 4), 1, 1),
        r"own channels, 2 .* got \(1, 1\)",
    ),
    "modes of another dimension": (lambda: NeuralOperator(FNO, 1, 1, n_modes=(4,), hidden_channels=4), "one number per axis"),
    "one number of modes": (lambda: NeuralOperator(UNO, 1, 1, n_modes=8), "see neuralop.models.UNO"),
    "unknown arguments": (lambda: NeuralOperator(FNO, 1, 1, n_modes=(4, 4), width=4), "see neuralop.models.FNO"),
    "arguments of a user's class": (lambda: NeuralOperator(Small, 1, 1, height=4), "see test_neural_operator.Small"),
    "channels of a user's class": (lambda: NeuralOperator(Small, 2, 1, width=4), "take 2 channels and give 1, got 1 and 1"),
    "a Fourier operator on a sphere": (
        lambda: NeuralOperator(FNO, 1, 1, n_modes=(4, 4), hidden_channels=4, domain=Sphere()),
        "expected SFNO on a Sphere",
    ),
    "reflection where there are no walls": (
        lambda: NeuralOperator(FNO, 1, 1, n_modes=(4, 4), hidden_channels=4, domain=Torus(2), boundary="even"),
        "where there are walls one of",
    ),
    "reflection of a model's periodic waves": (lambda: NeuralOperator(FNO((4, 4), 1, 1, 4), boundary="even"), "for a model"),
    "reflection of separable layers": (
        lambda: NeuralOperator(FNO, 1, 1, n_modes=(4, 4), hidden_channels=4, separable=True, boundary="all"),
        "of separable spectral layers",
    ),
    "CODANO in one dimension": (lambda: NeuralOperator(CODANO, 1, 1, n_modes=(4,), domain=Torus(1)), "two dimensions or three"),
    "a model that forgets": (
        lambda: NeuralOperator(CODANO(n_modes=[[4, 4]], n_layers=1, n_heads=[1], per_layer_scaling_factors=[[1, 1]],
                                      attention_scaling_factors=[1])),
        "pass the class",
    ),
    "its class to for_data": (lambda: Model.for_data(waves(8), FNO), r"NeuralOperator.of\(FNO"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_the_mend(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()


def waves(count, dim=1, seed=0, n=32, batch_size=32):
    """Square waves, in two dimensions checked, of random phases and height: far from Gaussian, with little else to know."""
    generator = torch.Generator().manual_seed(seed)
    phases, height = torch.rand(2, count, 2, *(1,) * dim, generator=generator)
    place = Torus(dim).points((n,) * dim)
    sums = torch.sin(2 * math.pi * (place + phases[:, :dim])).sum(1, keepdim=True)
    x = (0.5 + height[:, :1]) * torch.tanh(8 * sums)
    return MultiResolution(ArrayFields(x, domain=Torus(dim)), Torus(dim), [3 * n // 4, n], batch_size=batch_size)


def error_of(loss, data):
    """The loss on held-out waves, in that of the best linear estimate."""
    (shape,) = {max(data.shapes)}
    x = data.samples(256, shape)["x"]
    with torch.no_grad():
        return float(loss(x, generator=torch.Generator().manual_seed(0)).mean()) / loss.linear(shape)


@pytest.mark.slow
def test_it_is_trained_until_it_beats_the_linear_estimate_and_sampled_on_two_grids(tmp_path):
    data, grid = waves(1024), (32,)
    fno = NeuralOperator.of(FNO, n_modes=(16,), hidden_channels=24, n_layers=2)
    model = Model.for_data(data, fno, noise=WhiteNoise(Torus(1), grid), schedule=EDM())
    loss = DenoisingLoss(model)
    options = {"loss": loss, "logging": Logging(progress=False), "folder": tmp_path}
    fit(model, data, 60, optimizer=Adam(6e-3, ema_halflife=300), **options)
    fit(model, data, 100, optimizer=Adam(6e-3, ema_halflife=300), resume=True, **options)
    assert error_of(loss, waves(256, seed=1)) < 0.8
    read = Model.from_pretrained(tmp_path)
    for shape in (grid, (47,)):
        made = sample(read, shape, range(16), solver=DPMSolver(12), plan=Direct())
        assert made.shape == (16, 1, *shape)
        heights = made.square().mean((1, 2)).sqrt()
        assert 0.3 < float(heights.min()) and float(heights.median()) < 1.4, "from 0.5 to 1.5"


RADII = {"in_gno_radius": 0.75 / 16, "out_gno_radius": 0.75 / 16}  # with 1.5 / 16, which blur, 150 steps do not do
LEARNERS = {
    "UNO": (UNO, {"n_modes": (12, 12), "hidden_channels": 16}),
    "TFNO": (TFNO, {"n_modes": (12, 12), "hidden_channels": 24, "n_layers": 3, "rank": 0.3}),
    "CODANO": (
        CODANO,
        {"n_modes": (12, 12), "n_layers": 2, "hidden_variable_codimension": 8, "attention_token_dim": 8},
    ),
    "GINO": (GINO, {"fno_n_modes": (12, 12), "fno_hidden_channels": 24, "fno_n_layers": 2, **RADII, **MLPS}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_each_is_trained_until_it_beats_the_linear_estimate_on_held_out_fields(name):
    operator, options = LEARNERS[name]
    data, grid = waves(1024, dim=2, n=16, batch_size=16), (16, 16)
    network = NeuralOperator.of(operator, **options)
    model = Model.for_data(data, network, noise=WhiteNoise(Torus(2), grid), schedule=EDM())
    loss = DenoisingLoss(model)
    fit(model, data, 100, loss=loss, optimizer=Adam(6e-3, ema_halflife=500), logging=Logging(progress=False))
    assert error_of(loss, waves(256, dim=2, seed=1, n=16)) < 0.8
    for shape in (grid, (21, 21)):
        heights = sample(model, shape, range(8), solver=DPMSolver(8), plan=Direct()).square().mean((1, 2, 3)).sqrt()
        assert 0.3 < float(heights.min()) and float(heights.median()) < 1.6, "from 0.5 to 1.5"


@pytest.mark.parametrize("boundary", ["periodic", "even"])
def test_in_a_channel_it_is_trained_and_sampled_on_two_grids_and_has_no_place_along_it(boundary, tmp_path):
    x = GaussianRandomField(CHANNEL, Matern(2.0, 0.3)).sample((16, 1, 24, 18))
    data = MultiResolution(ArrayFields(x, domain=CHANNEL), CHANNEL, [(16, 12), (24, 18)], batch_size=4)
    fno = NeuralOperator.of(FNO, n_modes=(8, 6), hidden_channels=8, n_layers=2, boundary=boundary)
    model = fit(Model.for_data(data, fno), data, 4, logging=Logging(progress=False))
    read = Model.from_pretrained(model.save_pretrained(tmp_path))
    coarse, fine = (sample(read, shape, range(2), solver=DPMSolver(2), plan=Direct()) for shape in ((24, 18), (40, 30)))
    apart = CHANNEL.norm(CHANNEL.resample(fine, (24, 18)) - coarse) / CHANNEL.norm(coarse)
    assert float(apart.max()) < 0.5, "the same seeds"
    net, level, x = (
        stirred(read.network).double(),
        torch.zeros(()),
        torch.randn(1, read.network.in_channels, 24, 18).double(),
    )
    moved = [float((net(x.roll(5, axis), level) - net(x, level).roll(5, axis)).detach().abs().max()) for axis in (2, 3)]
    assert moved[0] < 1e-9 and moved[1] > 1e-3


def test_a_model_takes_one_of_neuralops_as_it_is():
    sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
    model = Model(FNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=16), sde, EDMScaling())
    data = MultiResolution(ArrayFields(torch.randn(8, 16, 16), domain=Box(2)), Box(2), [12, 16], batch_size=4)
    before = model.network.modulations[0].maps[0].weight.detach().clone()
    fit(model, data, 5, logging=Logging(progress=False))
    assert float((model.network.modulations[0].maps[0].weight - before).abs().max()) > 0
    for shape in ((16, 16), (24, 20)):
        assert sample(model, shape, [0, 1], solver=DPMSolver(2)).shape == (2, 1, *shape)
