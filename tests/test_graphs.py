"""CUDA graphs while training, with a stand-in for the recorder: what is recorded, when it is played, and what is refused."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from waves import QUIET, data, model

from fnodiff import DFU, Box, GaussianRandomField, Matern, Model, MultiResolution, WhiteNoise, fit
from fnodiff.data import ArrayFields
from fnodiff.nn.blocks import positions
from fnodiff.train import Execution, Logging, graphs


class Recorder:
    """Records as torch does, but for the graph: a module's forward is replaced, whose arguments stay as they were recorded."""

    def __init__(self):
        self.shapes, self.played = [], 0

    def __call__(self, module, like, allow_unused_input):
        assert isinstance(module, torch.nn.Module) and allow_unused_input
        self.shapes.append(tuple(tuple(v.shape) for v in like))
        plain = module.forward
        plain(*like)

        def play(*inputs):
            assert [(v.shape, v.dtype) for v in inputs] == [(v.shape, v.dtype) for v in like]
            self.played += 1
            for kept, value in zip(like, inputs, strict=True):
                assert kept.data_ptr() != value.data_ptr()
                kept.copy_(value)
            return plain(*like)

        module.forward = play
        return module


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    monkeypatch.setattr("fnodiff.train.loop.check_recordable", lambda *_: None)
    return recorder


def trained(cuda_graphs, steps=8, callback=None, **labelled):
    torch.manual_seed(0)
    x = GaussianRandomField(Box(2), Matern(1.0, 0.3)).sample((16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    batches = MultiResolution(ArrayFields(x, domain=Box(2), **labelled), Box(2), [4, 8], batch_size=4)
    made = Model.for_data(batches, partial(DFU.tiny, dropout=0.0), noise=WhiteNoise(Box(2), (8, 8)))
    logging = Logging(progress=False, callback=callback and partial(callback, made))
    return fit(made, batches, steps, logging=logging, execution=Execution(seed=0, cuda_graphs=cuda_graphs))


@pytest.mark.parametrize("labelled", [{}, {"label": torch.arange(16) % 2}], ids=["", "labels"])
def test_a_grid_is_recorded_once_and_played_at_every_step(recorder, labelled):
    played, plain = trained(True, **labelled), trained(False, **labelled)
    assert sorted(shapes[0] for shapes in recorder.shapes) == [(4, 2, 4, 4), (4, 2, 8, 8)]
    assert {len(shapes) for shapes in recorder.shapes} == {2 + len(labelled)}
    assert recorder.played == 8
    torch.testing.assert_close(list(played.parameters()), list(plain.parameters()))
    assert type(played.network.forward.__self__) is DFU  # its own again


def test_evaluation_and_copies_are_not_played(recorder):
    checked = []

    def callback(model, step, shape, value):
        x, played = torch.ones(2, 2, 8, 8), recorder.played
        other = copy.deepcopy(model.network)
        with torch.no_grad():
            before = model.network(x, torch.zeros(()))
            torch.testing.assert_close(other(x, torch.zeros(())), before)
            for parameter in other.parameters():
                parameter.add_(1.0)
            assert float((other(x, torch.zeros(())) - before).abs().max()) > 0  # by its own weights
            torch.testing.assert_close(model.network(x, torch.zeros(())), before)
        other(x, torch.zeros(()))
        assert recorder.played == played
        checked.append(step)

    trained(True, steps=2, callback=callback)
    assert checked == [1, 2]


def test_without_a_gpu_it_is_refused():
    with pytest.raises(ValueError, match=r"on one NVIDIA GPU.*got the device (cpu|mps).*leave cuda_graphs=True out"):
        fit(model(), data(), 1, execution=Execution(Accelerator(cpu=True), cuda_graphs=True), logging=QUIET)


class On:
    """What an accelerator says of itself."""

    device, num_processes, gradient_accumulation_steps, mixed_precision = torch.device("cuda"), 1, 1, "no"

    def __init__(self, backend=DynamoBackend.NO, **other):
        self.state = SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=backend))
        vars(self).update(other)


@pytest.mark.parametrize(
    ("other", "network", "told"),
    [
        ({"num_processes": 2}, torch.nn.Identity(), r"2 processes and 1 parts; train in one process, whole batches"),
        ({"gradient_accumulation_steps": 4}, torch.nn.Identity(), r"1 processes and 4 parts"),
        ({"mixed_precision": "bf16"}, torch.nn.Identity(), r"mixed precision bf16; leave one of the two out"),
        ({}, "recompute", r"one that computes its blocks again; leave recompute out"),
        ({"backend": DynamoBackend.INDUCTOR}, torch.nn.Identity(), r"a compiled one"),
        ({}, "torch.compile", r"a compiled one"),
        ({}, "a part", r"a compiled one"),
        ({}, abs, r"builtin_function_or_method; take a torch.nn.Module"),
        ({}, "compiled", r"a compiled one; take a torch.nn.Module that is not compiled"),
    ],
)
def test_what_cannot_be_recorded(other, network, told):
    if isinstance(network, str):
        how, network = network, torch.nn.Sequential(torch.nn.Identity())
        network.recompute = how == "recompute"
        if how in ("compiled", "a part"):
            (network if how == "compiled" else network[0]).compile(backend="eager")
        elif how == "torch.compile":
            network = torch.compile(network, backend="eager")
    with pytest.raises(ValueError, match=told):
        graphs.check_recordable(holding(network), On(**other))
    graphs.check_recordable(holding(torch.nn.Identity()), On())


def holding(network):
    """A model, as far as the check looks."""
    model = torch.nn.Module()
    model.network = network
    return model


def test_a_pass_that_waits_for_its_gradient_is_not_written_over(recorder):
    """A recording has one place for what its backward pass reads: a second call before that is computed as without."""
    net = DFU.tiny(1, 1, dropout=0.0, zero_init=False)
    x, y = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    level = torch.zeros(2)
    with graphs.recorded(net):
        first, second = net(x, level), net(y, level)
        assert recorder.played == 1
        (first.square().mean() + second.square().mean()).backward()
        net(x, level)
        assert recorder.played == 2
    assert not vars(net).get("forward")


class Either(torch.nn.Module):
    """A network that takes one of two conditions."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, noise_level, *, plus=0.0, times=1.0):
        return self.weight * (x + plus) * times


def test_conditions_of_one_shape_are_not_taken_for_each_other(recorder):
    net, x, level, three = Either(), torch.ones(2, 1, 4, 4), torch.zeros(2), torch.full((2, 1, 1, 1), 3.0)
    with graphs.recorded(net):
        for name, expected in {"plus": 4.0, "times": 3.0}.items():
            out = net(x, level, **{name: three})
            torch.testing.assert_close(out, torch.full_like(x, expected))
            out.sum().backward()
    assert len(recorder.shapes) == recorder.played == 2


def test_an_input_that_wants_a_gradient_gets_it(recorder):
    net = DFU.tiny(1, 1, dropout=0.0, zero_init=False)
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    with graphs.recorded(net):
        net(x, torch.zeros(2)).square().mean().backward()
    assert recorder.played == 0 and float(x.grad.abs().max()) > 0


def test_a_forward_of_its_own_is_put_back(recorder):
    net = DFU.tiny(1, 1, dropout=0.0)
    own = net.forward = lambda *inputs, **conditions: DFU.forward(net, *inputs, **conditions)
    with graphs.recorded(net):
        assert net.forward is not own
    assert net.forward is own


def test_constants_outlive_the_cache_while_they_are_recorded(recorder):
    net = DFU.tiny(1, 1, dropout=0.0, positional_modes=2)
    with graphs.recorded(net):
        net(torch.randn(2, 1, 8, 8), torch.zeros(2))
        kept = net.forward.constants
        assert any(torch.is_tensor(value) and value.shape == (4, 8, 8) for value in kept)  # positions
        count = len(kept)
        net(torch.randn(2, 1, 12, 12), torch.zeros(2))
        assert len(kept) > count
    count = len(kept)
    positions(Box(2), (2, 2), (8, 8), torch.float32, torch.device("cpu"))
    assert len(kept) == count


def test_what_torch_cannot_record_is_said(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fails)
    net = DFU.tiny(1, 1)
    with (
        graphs.recorded(net),
        pytest.raises(ValueError, match=r"DFU, at which torch says: CUDA error: operation not perm[^\n]*; leave"),
    ):
        net(torch.randn(2, 1, 8, 8), torch.zeros(2))
