"""Data sets made by several processes, or on a cluster, are those of one."""

from __future__ import annotations

import h5py
import joblib
import numpy as np
import pytest
from waves_by_index import Broken, ByIndex

from fnodiff.data import HDF5Fields, write_fields

ABOUT = {"source": "waves", "licence": "none", "grid": "points"}


def written(path, source=None, **options):
    write_fields(path, source or ByIndex(7), [(4, 6), (3, 3)], attributes=ABOUT, chunk=2, progress=False, **options)
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("4x6/x", "3x3/x", "label")}


@pytest.fixture
def alone(tmp_path):
    return written(tmp_path / "alone.h5")


@pytest.mark.parametrize("workers", [2, -1])
def test_threads_write_the_same(tmp_path, alone, workers):
    with joblib.parallel_config("threading"):
        found = written(tmp_path / "threads.h5", workers=workers)
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
def test_processes_write_the_same(tmp_path, alone):
    found = written(tmp_path / "processes.h5", workers=2)
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_cluster_of_two_writes_the_same(tmp_path, alone):
    distributed = pytest.importorskip("dask.distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.Client(**options), joblib.parallel_config("dask"):
        found = written(tmp_path / "cluster.h5", workers=-1)
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)


def test_what_a_process_raises_is_raised_and_the_file_can_be_continued(tmp_path, alone):
    with joblib.parallel_config("threading"), pytest.raises(ValueError, match="sample 5 cannot be solved"):
        written(tmp_path / "broken.h5", Broken(7), workers=2)
    assert len(HDF5Fields(tmp_path / "broken.h5", allow_incomplete=True)) <= 4
    np.testing.assert_array_equal(written(tmp_path / "broken.h5")["4x6/x"], alone["4x6/x"])


@pytest.mark.parametrize("workers", [0, -2])
def test_workers_are_counted(tmp_path, workers):
    with pytest.raises(ValueError, match="workers >= 1 or -1, got 64 and"):
        write_fields(tmp_path / "x.h5", ByIndex(7), [(3, 3)], attributes=ABOUT, workers=workers)
