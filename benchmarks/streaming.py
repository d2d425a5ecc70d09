"""How fast a data set larger than memory is read: a Zarr store in the layout of WeatherBench 2, chunk by chunk.

The store is written into a temporary folder: float32 fields (time, longitude, latitude) of 240 x 121, 32 times in a chunk.
Before each row its pages are dropped from the system's cache, so that the disk is read. The first row reads the files' bytes
one after another; the others are epochs of `MultiResolution` on the stored grid, once taken for a box and once for the sphere,
on which what its degrees do not hold is projected out. Medians of rounds in which all rows take turns. The last column counts
this process' seconds of CPU, which others on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import xarray

from fnodiff import Box
from fnodiff.data import Chunks, MultiResolution, from_xarray
from fnodiff.domain import Domain

LONGITUDES, LATITUDES, STORED = 240, 121, 32
BATCH = 16


def write_store(path: Path, gigabytes: float, names: tuple[str, ...] = ("t", "u")) -> int:
    """Write variables of random numbers in parts; how many times there are."""
    each = 4 * LONGITUDES * LATITUDES * len(names)
    times = max(1, round(gigabytes * 1e9 / each / STORED)) * STORED
    random = np.random.default_rng(0)
    encoding = {name: {"chunks": (STORED, LONGITUDES, LATITUDES)} for name in names}
    for first in range(0, times, STORED):
        shape = (STORED, LONGITUDES, LATITUDES)
        values = {n: (("time", "longitude", "latitude"), random.random(shape, dtype=np.float32)) for n in names}
        place = {"longitude": np.arange(LONGITUDES) * 1.5, "latitude": np.linspace(-90, 90, LATITUDES)}
        part = xarray.Dataset(values, place | {"time": np.arange(first, first + STORED)})
        if first == 0:
            part.to_zarr(path, encoding=encoding, zarr_format=2)
        else:
            part.to_zarr(path, append_dim="time")
    return times


def drop_cache(path: Path) -> None:
    """Let the system forget the pages of all files of a folder."""
    for file in path.rglob("*"):
        if file.is_file():
            number = os.open(file, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def read_files(path: Path) -> int:
    """Read all files from beginning to end; how many bytes they hold."""
    return sum(len(file.read_bytes()) for file in sorted(path.rglob("*")) if file.is_file())


def epoch(path: Path, chunks: Chunks, domain: Domain | None = None, batches: int | None = None) -> int:
    """Read an epoch's batches; how many bytes of float32 they hold."""
    fields = from_xarray(path, ["t", "u"], domain, chunks=chunks)
    data = MultiResolution(fields, fields.domain, [fields.shape], batch_size=BATCH)
    return sum(batch["x"].numel() * 4 for batch in islice(data, batches))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the store")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "weather.zarr"
        times = write_store(store, args.gigabytes)
        rows: dict[str, Callable[[], int]] = {
            "the files' bytes": lambda: read_files(store),
            "chunk by chunk, a box": lambda: epoch(store, Chunks(), Box(2)),
            "chunk by chunk, the sphere": lambda: epoch(store, Chunks()),
            "any order (20 batches)": lambda: epoch(store, Chunks(size=1, together=1), None, 20),
        }
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates: dict[str, list[tuple[float, float]]] = {row: [] for row in rows}
        for _ in range(args.rounds):
            for row, read in rows.items():
                drop_cache(store)
                start, cpu = time.perf_counter(), time.process_time()
                megabytes = read() / 1e6
                rates[row].append((megabytes / (time.perf_counter() - start), megabytes / (time.process_time() - cpu)))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{times} times of 2 x {LONGITUDES} x {LATITUDES} in {args.gigabytes:g} GB, {STORED} in a chunk")
        print(f"{'':<28}{'MB/s':>8}{'samples/s':>12}{'MB per s of CPU':>18}")
        for row, found in rates.items():
            rate, per_cpu = map(statistics.median, zip(*found, strict=True))
            print(f"{row:<28}{rate:>8.0f}{rate * 1e6 / (8 * LONGITUDES * LATITUDES):>12.0f}{per_cpu:>18.0f}")
        print(f"memory beyond that of the start: {grown / 1e3:.0f} MB at most")


if __name__ == "__main__":
    main()
