"""Conditions on the command line: numbers by name, and files of fields, numbers and labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command import drawn, run

from fnodiff import DFU, EDM, DPMSolver, EDMScaling, FunctionSpaceSDE, Model, Torus, WhiteNoise, sample
from fnodiff.data import ArrayFields, HDF5Fields, write_fields

NAMES = ("viscosity", "lead time")
SOLVER = DPMSolver(3)
OPTIONS = ["--size", 16, "--seeds", "0-2", "--out"]


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A model of one channel, conditioned on a field and on two numbers, and data of these."""
    folder = tmp_path_factory.mktemp("flow")
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=Torus(2), num_blocks=0, zero_init=False, condition_channels=1, condition_numbers=2)
    model = Model(net, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM()), EDMScaling())
    model.condition_names, model.training_shapes = NAMES, ((16, 16),)
    model.save_pretrained(folder / "model")
    x, field, numbers = torch.randn(16, 1, 24, 24), torch.randn(16, 1, 24, 24), torch.rand(16, 2)
    source = ArrayFields(x, field, condition=numbers, condition_names=NAMES, domain=Torus(2))
    about = {"source": "random numbers", "licence": "none", "grid": "points"}
    write_fields(folder / "data.h5", source, [(16, 16), (24, 24)], attributes=about, dtype="float32", progress=False)
    other = {"swapped": {"condition": numbers, "condition_names": NAMES[::-1]}, "none": {}}
    for name, more in other.items():
        few = ArrayFields(x, field, domain=Torus(2), **more)
        write_fields(folder / f"{name}.h5", few, [(16, 16)], attributes=about, dtype="float32", progress=False)
    (folder / "numbers.csv").write_text("viscosity, lead time\n1, 2\n")
    (folder / "twice.csv").write_text("viscosity, viscosity\n1, 2\n")
    return folder, model.eval(), source


def made(folder):
    (file,) = folder.glob("*.h5")
    return HDF5Fields(file).batch([0, 1, 2], (16, 16))["x"]


def test_numbers_by_name_and_a_field_of_a_file(flow, tmp_path):
    folder, model, source = flow
    named = ["--condition", "viscosity=0.5", "lead-time=nan", "--condition-file", folder / "data.h5"]
    assert drawn("sample", folder / "model", *named, *OPTIONS, tmp_path) == 0
    field = source.batch(range(3), (24, 24))["field"]
    expected = sample(model, 16, range(3), solver=SOLVER, field=field, condition=[0.5, float("nan")])
    torch.testing.assert_close(made(tmp_path), expected, rtol=1e-4, atol=1e-4)
    named[1] = "viscosity=0.6"
    assert drawn("sample", folder / "model", *named, *OPTIONS, tmp_path) == 2, "there are others"


def test_everything_of_a_file_a_row_for_each_seed(flow, tmp_path):
    folder, model, source = flow
    batch = source.batch(range(3), (24, 24))
    given = {"field": batch["field"], "condition": batch["condition"]}
    expected = sample(model, 16, range(3), solver=SOLVER, **given)
    np.savez(tmp_path / "c.npz", **{name: value.numpy() for name, value in given.items()})
    for number, file in enumerate((folder / "data.h5", tmp_path / "c.npz")):
        out = tmp_path / str(number)
        assert drawn("sample", folder / "model", "--condition-file", file, *OPTIONS, out, "--batch", 2) == 0
        torch.testing.assert_close(made(out), expected, rtol=1e-4, atol=1e-4)


def test_a_table_of_numbers(tmp_path):
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=Torus(2), num_blocks=0, zero_init=False, condition_numbers=2)
    model = Model(net, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM()), EDMScaling()).eval()
    model.condition_names = NAMES
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "c.csv").write_text("lead time, viscosity\n6, 0.1\n12, 0.2\n24, 0.3\n48, 0.4\n")
    assert drawn("sample", tmp_path / "model", "--condition-file", tmp_path / "c.csv", *OPTIONS, tmp_path / "out") == 0
    expected = sample(model, 16, range(3), solver=SOLVER, condition=[[0.1, 6.0], [0.2, 12.0], [0.3, 24.0]])
    torch.testing.assert_close(made(tmp_path / "out"), expected, rtol=1e-4, atol=1e-4)
    guided = ["--condition", "viscosity=1", "lead-time=2", "--guidance", 2, *OPTIONS, tmp_path / "guided"]
    assert drawn("sample", tmp_path / "model", *guided) == 0


def test_trained_measured_and_reported_with_the_data_s_own(flow, tmp_path, capsys):
    folder = flow[0]
    small = ["--network", "tiny", "--hidden-channels", 8, "--num-blocks", 0, "--steps", 2, "--batch", 4, "--quiet"]
    where = ["--domain", "torus", "--out", tmp_path / "run", "--device", "cpu"]
    assert run("train", folder / "data.h5", *small, *where) == 0
    said = capsys.readouterr().out
    assert "--condition-file FILE --condition viscosity=0." in said and "lead-time=0." in said
    assert Model.from_pretrained(tmp_path / "run").condition_names == NAMES
    report = ["--data", folder / "data.h5", "--shapes", 16, 24, "--samples", 4, "--out", tmp_path / "report.png"]
    assert drawn("report", tmp_path / "run", *report) == 0
    for data, said in (("swapped.h5", "in the model's order"), ("none.h5", "or --numbers of the data")):
        assert drawn("report", tmp_path / "run", "--data", folder / data, "--shapes", 16, 24, "--samples", 4) == 2
        assert said in capsys.readouterr().err
    measured = ["--data", folder / "data.h5", "--sizes", 16, "--seeds", "0-3", "--out", tmp_path / "evaluated"]
    assert drawn("evaluate", tmp_path / "run", *measured) == 0
    assert "spectrum" in capsys.readouterr().out


def test_arrays_of_a_file_are_named(tmp_path):
    random = np.random.default_rng(0)
    arrays = {"u": random.random((8, 16, 16)), "nu": random.random(8), "forcing": random.random((8, 16, 16))}
    np.savez(tmp_path / "flow.npz", **arrays)
    small = ["--network", "tiny", "--hidden-channels", 8, "--num-blocks", 0, "--steps", 2, "--batch", 4, "--quiet"]
    named = ["--x", "u", "--field", "forcing", "--numbers", "nu", "--shapes", 12, 16, "--domain", "torus"]
    assert run("train", tmp_path / "flow.npz", *named, *small, "--out", tmp_path / "run", "--device", "cpu") == 0
    trained = Model.from_pretrained(tmp_path / "run")
    assert trained.condition_names == ("nu",) and trained.network.condition_channels == 1


WRONG = {
    "a number of another name": (["--condition", "vicosity=1"], "expected --condition viscosity=0.1 lead-time=0.1"),
    "no number": (["--condition", "viscosity=low", "lead-time=1"], "got viscosity=low"),
    "no numbers": ([], "expected --condition-file with the conditioning field"),
    "no file": (["--condition-file", "nowhere.h5"], "which is not there"),
    "a number twice": (["--condition", "viscosity=1", "viscosity=2"], "got viscosity twice"),
    "a name twice": (["--condition-file", "{folder}/twice.csv"], "a name twice"),
    "numbers of both": (["--condition", "viscosity=1", "--condition-file", "{folder}/numbers.csv"], "got both"),
    "numbers in another order": (
        ["--condition-file", "{folder}/swapped.h5"],
        "expected the numbers viscosity, lead time",
    ),
    "a label": (["--label", "0", "--condition", "viscosity=1"], "the model has no classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_conditions_are_said_in_one_line(case, flow, tmp_path, capsys):
    arguments, message = WRONG[case]
    arguments = [argument.format(folder=flow[0]) for argument in arguments]
    assert drawn("sample", flow[0] / "model", *arguments, *OPTIONS, tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said, said
