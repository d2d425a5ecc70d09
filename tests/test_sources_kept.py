"""What sources hand on: grids that are drawn, numbers, labels and types, all of them and no others."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from fnodiff import DFU, Box, Model, MultiResolution, Torus
from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder, InMemory, WithNumbers, write_fields

ABOUT = {"source": "test", "licence": "none", "grid": "points"}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_grids_that_are_never_drawn_are_not_trained():
    data = MultiResolution(
        ArrayFields(noise(8, 1, 16, 16), domain=Box(2)), Box(2), [8, 12, 16], [0, 1, 0], batch_size=4
    )
    assert data.native_shapes == ((12, 12),)
    model = Model.for_data(data, DFU.tiny)
    assert model.training_shapes == ((12, 12),) and {data.shape(step) for step in range(20)} == {(12, 12)}


def test_numbers_join_those_that_are_there():
    first = ArrayFields(noise(6, 16, 16), domain=Torus(2), condition=torch.arange(6.0), condition_names="a")
    both = WithNumbers(first, 10 * torch.arange(6.0), "b")
    assert both.condition_names == ("a", "b")
    assert both.batch([2, 5], (16, 16))["condition"].tolist() == [[2, 20], [5, 50]]
    with pytest.raises(ValueError, match="names other than the source's"):
        WithNumbers(first, torch.arange(6.0), "a")


@pytest.mark.parametrize("shapes", [[(16, 24), (16, 16)], [(16, 16), (16, 24)], [16, (16, 24)]])
def test_an_int_in_memory_is_as_many_points_on_each_side(shapes):
    kept = InMemory(ArrayFields(noise(4, 1, 24, 24), domain=Box(2)), shapes)
    assert kept.batch([0], 16)["x"].shape == (1, 1, 16, 16)
    assert InMemory(ArrayFields(noise(4, 1, 24, 24), domain=Box(2)), [(16, 24)]).batch([0], 16)["x"].shape[2:] == (
        16,
        24,
    )


BAD = torch.tensor([[0.5, 0.5], [1.5, -0.5]])


def test_labels_that_are_no_shares_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"got \[1.5, -0.5\] of sample 1; divide by the sum, leave labels out, or pass"
    ):
        ArrayFields(noise(2, 8, 8), label=BAD, domain=Box(2))
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    for labels, wrong in ((BAD, True), (BAD.abs().softmax(1), False)):
        listed = [[f"{number}.png", label.tolist()] for number, label in enumerate(labels)]
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": listed}))
        if wrong:
            with pytest.raises(ValueError, match=r"shares of classes that sum to one, .* of sample 1; .*leave labels"):
                MultiResolution(ImageFolder(tmp_path), Box(2), [8], batch_size=2)
            assert MultiResolution(ImageFolder(tmp_path, labels="none"), Box(2), [8], batch_size=2).num_classes == 0
        else:
            assert ImageFolder(tmp_path).num_classes == 2


def test_a_field_keeps_its_own_type(tmp_path):
    pressure = 101325 + 0.02 * noise(6, 1, 16, 16).double()
    source = ArrayFields(noise(6, 1, 16, 16), pressure, domain=Box(2))
    write_fields(tmp_path / "a.h5", source, [8, 16], attributes=ABOUT, chunk=2, progress=False)
    batch, expected = HDF5Fields(tmp_path / "a.h5").batch([0, 5], (16, 16)), source.batch([0, 5], (16, 16))
    assert batch["x"].dtype == torch.float32 and batch["field"].dtype == torch.float64
    assert torch.equal(batch["field"], expected["field"]) and torch.equal(batch["x"], expected["x"])
