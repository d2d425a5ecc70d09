"""The loader: one grid a batch, each a function of seed and step, and every epoch all samples once, in a new order."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader
from waves import Waves, data

from fnodiff import Box, MultiResolution, Torus
from fnodiff.data import ArrayFields, InMemory, Part


class Numbers:
    """Samples whose values are their own numbers."""

    channels = 1

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices, shape):
        return {"x": torch.tensor(list(indices), dtype=torch.float32)[:, None, None].expand(-1, 1, *shape)}


def numbers(count=10, batch_size=4, **options):
    return MultiResolution(Numbers(count), Torus(1), [8, 12], batch_size=batch_size, **options)


def seen(batches):
    """The numbers of the samples, in the order in which they came."""
    return [int(n) for batch in batches for n in batch["x"][:, 0, 0]]


class TestMultiResolution:
    @pytest.mark.parametrize(("count", "batch_size", "steps"), [(64, 4, 16), (64, 5, 13), (3, 4, 1), (9, 1, 9)])
    def test_its_length_is_the_steps_of_an_epoch(self, count, batch_size, steps):
        loader = numbers(count, batch_size)
        assert len(loader) == steps
        assert set(seen(loader[step] for step in range(steps))) == set(range(count))
        assert steps == 1 or len(set(seen(loader[step] for step in range(steps - 1)))) < count

    def test_it_iterates_over_an_epoch(self):
        loader = numbers()
        assert seen(loader) == seen(loader[step] for step in range(3))

    def test_every_epoch_visits_all_samples_once_in_a_new_order(self):
        order = seen(DataLoader(numbers(), batch_size=None, sampler=numbers().steps(0, 10)))
        epochs = [order[i : i + 10] for i in range(0, 40, 10)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in (*epochs, range(10))}) == 5, "no epoch repeats another's order"

    def test_one_resolution_per_batch_with_its_weight(self):
        loader = data(shapes=[16, 8, 12], weights=[0.6, 0.1, 0.3])
        counts = Counter(loader.shape(step) for step in range(3000))
        assert counts[(16,)] / 3000 == pytest.approx(0.6, abs=0.04)
        assert counts[(8,)] / 3000 == pytest.approx(0.1, abs=0.025)
        assert loader[0]["x"].shape == (4, 2, *loader.shape(0))

    def test_warm_up_starts_small(self):
        loader = data(shapes=[16, 8, 12], warmup=300)
        assert {loader.shape(step) for step in range(100)} == {(8,)}
        assert {loader.shape(step) for step in range(100, 200)} == {(8,), (12,)}
        assert {loader.shape(step) for step in range(200, 400)} == {(8,), (12,), (16,)}

    def test_a_batch_is_a_function_of_seed_and_step(self):
        torch.testing.assert_close(data()[7]["x"], data()[7]["x"], rtol=0, atol=0)
        assert [data(seed=1).indices(s) for s in range(3)] != [data().indices(s) for s in range(3)]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_loader_goes_on_from_any_step_with_any_number_of_workers(self, workers):
        loader = numbers()
        batches = list(DataLoader(loader, batch_size=None, sampler=loader.steps(2, 9), num_workers=workers))
        assert len(batches) == len(loader.steps(2, 9)) == 7
        assert all(torch.equal(batch["x"], loader[step]["x"]) for step, batch in enumerate(batches, 2))

    def test_steps_without_an_end_go_on(self):
        steps = data().steps(3)
        assert [step for step, _ in zip(steps, range(100), strict=False)] == list(range(3, 103))
        with pytest.raises(TypeError, match="pass stop"):
            len(steps)

    def test_processes_take_their_own_steps(self):
        shares = [list(data().steps(rank, 11, every=3)) for rank in range(3)]
        assert shares == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]
        assert [len(data().steps(rank, 11, every=3)) for rank in range(3)] == [4, 4, 3]
        assert [step for step, _ in zip(data().steps(1, every=3), range(3), strict=False)] == [1, 4, 7]

    def test_samples_to_measure_on_are_different_ones_chosen_by_the_seed(self):
        chosen = [numbers(seed=seed).samples(6, (8,))["x"][:, 0, 0].tolist() for seed in (0, 0, 1)]
        assert len(set(chosen[0])) == 6
        assert chosen[0] == chosen[1] != chosen[2]
        assert sorted(seen([numbers().samples(99, (8,))])) == list(range(10)), "all, if there are fewer"

    def test_it_says_what_its_source_does(self):
        x, label = torch.randn(6, 2, 8, 8), torch.tensor([0, 3, 1, 0, 0, 2])
        loader = MultiResolution(ArrayFields(x, x[:, :1], label, domain=Box(2)), Box(2), [8])
        assert (loader.cell_averages, loader.num_classes, loader.condition_channels) == (True, 4, 1)
        assert (data().cell_averages, data().num_classes, data().condition_channels) == (False, 0, 0)
        assert loader.native_shapes == ((8, 8),)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: data(shapes=[(8, 8)]), "1 positive sizes"),
            (lambda: data(shapes=[8, 8]), "each shape once"),
            (lambda: data(weights=[1.0]), "one weight for each"),
            (lambda: data(weights=[0.0, 0.0, 0.0]), "positive sum"),
            (lambda: data(batch_size=0), "batch_size >= 1"),
            (lambda: MultiResolution(Waves(0), Torus(1), [8]), "0 samples"),
            (lambda: data().steps(-1), "0 <= start <= stop"),
            (lambda: data().steps(5, 4), "0 <= start <= stop"),
            (lambda: data().steps(0, 1.5), "stop=None goes on"),
            (lambda: data().steps(0, 4, every=0), "every >= 1"),
            (lambda: Part(Waves(), [64]), "0 to 63"),
            (lambda: Part(Waves(), [3, 4]).batch([-3], (8,)), "0 to 1"),
            (lambda: InMemory(Waves(4), [(8,)]).batch([4], (8,)), "0 to 3"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("shape", [(8,), (12,)])
def test_in_memory_gives_what_the_source_gives(shape):
    kept = InMemory(Waves(10), [(8,), (12,)], chunk=4)
    assert (len(kept), kept.channels) == (10, 2)
    torch.testing.assert_close(kept.batch([9, 0, 5], shape)["x"], Waves().batch([9, 0, 5], shape)["x"])
    with pytest.raises(ValueError, match="prepared shapes"):
        kept.batch([0], (9,))


def test_a_part_is_a_source_of_its_own():
    part = Part(Waves(), range(10, 20))
    assert len(part) == 10
    torch.testing.assert_close(part.batch([0, 3], (8,))["x"], Waves().batch([10, 13], (8,))["x"])


@pytest.mark.parametrize(
    "make", [lambda f: Part(f, [0, 1]), lambda f: InMemory(f, [(8, 8)])], ids=["part", "in memory"]
)
def test_what_is_made_of_a_source_says_what_that_does(make):
    x, label = torch.randn(2, 2, 8, 8), torch.tensor([0, 3])
    source = make(ArrayFields(x, x[:, :1], label, domain=Box(2)))
    assert (source.channels, source.cell_averages, source.num_classes, source.condition_channels) == (2, True, 4, 1)
