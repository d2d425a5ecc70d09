"""Every row of the page for people who come from other libraries runs."""

from __future__ import annotations

import re

import pytest
import torch
from accelerate import Accelerator

import fnodiff
from fnodiff import DFU, Box, Model, MultiResolution, inverse
from fnodiff import data as sources
from tests.test_documentation import read

CELLS = [line.strip("|").split(" | ") for line in read("docs/coming_from.md").splitlines() if line.startswith("|")]
ROWS = [cells for cells in CELLS if len(cells) == 3 and cells[1].strip() != "here"]
CODE = sorted(
    {
        (here.strip().removeprefix("`").removesuffix("`"), "\n".join(re.findall("`(from .*?)`", note)))
        for _, here, note in ROWS
    }
)
"""A row's code, and what its last column imports for it."""


def model(classes: int = 0) -> Model:
    torch.manual_seed(0)
    label = torch.arange(8) % 2 if classes else None
    fields = sources.ArrayFields(torch.rand(8, 3, 16, 16), label=label, domain=Box(2))
    return Model.for_data(MultiResolution(fields, Box(2), [16], batch_size=2), DFU.tiny)


@pytest.fixture(scope="module")
def given() -> dict[str, object]:
    """What the page says that it takes as given."""
    made, x = model(), torch.rand(2, 3, 16, 16)
    fields = sources.ArrayFields(torch.rand(8, 3, 16, 16), domain=Box(2))
    points, values = torch.tensor([[0.3], [0.4]]), torch.zeros(3, 1)
    return {name: getattr(fnodiff, name) for name in fnodiff.__all__} | {
        "net": DFU.tiny(3, 3),
        "sde": made.sde,
        "model": made,
        "worse": model(),
        "labelled": model(classes=2),
        "data": MultiResolution(fields, Box(2), [16], batch_size=2),
        "x": x,
        "ensemble": torch.stack([x, x + 0.1]),
        "t": torch.tensor(0.5),
        "x_t": x,
        "points": points,
        "values": values,
        "seen": inverse.PointObservation(points, values, noise_std=0.1),
        "Accelerator": lambda: Accelerator(cpu=True),
    }


def others(code: str) -> dict[str, object]:
    """Objects of other libraries that a row takes."""
    found: dict[str, object] = {}
    if "FNO" in code or "fno" in code:
        from neuralop.models import FNO

        found |= {"FNO": FNO, "fno": FNO(n_modes=(4, 4), in_channels=3, out_channels=3, hidden_channels=8)}
    if "unet" in code:
        diffusers = pytest.importorskip("diffusers")
        wide = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        found["unet"] = diffusers.UNet2DModel(sample_size=16, **wide, **blocks)
        found["scheduler"] = diffusers.DDPMScheduler()
    if "azula" in code:
        azula = pytest.importorskip("azula.denoise")
        from azula.noise import VPSchedule

        made = azula.KarrasDenoiser(torch.nn.Identity(), VPSchedule())
        found["azula_denoiser"] = made
    return found


def test_there_are_rows_for_each_library() -> None:
    assert len(ROWS) == 13 + 9 + 11 + 10 + 8
    assert all(cells[1].strip().strip("`") and cells[1].strip()[0] == cells[1].strip()[-1] == "`" for cells in ROWS)


SLOW = ("twisted(", "DiffusersDenoiser(")  # a second or more


@pytest.mark.parametrize(
    ("code", "imports"), [pytest.param(*c, marks=pytest.mark.slow if c[0].startswith(SLOW) else ()) for c in CODE]
)
def test_a_row_runs(
    code: str, imports: str, given: dict[str, object], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "darcy.pt" in code:
        torch.save({"x": torch.rand(4, 16, 16), "y": torch.rand(4, 16, 16)}, "darcy.pt")
    quick = {
        "(32, 32)": "(16, 16)",
        "(96, 64)": "(24, 16)",
        "(64, 64)": "(32, 32)",
        "Heun(18, c": "Heun(3, c",
        "range(4)": "range(2)",
    }
    for long, short in quick.items():
        code = code.replace(long, short)
    code = re.sub(r"^(sample|upscale)\((?!.*solver)(.*)\)$", r"\1(\2, solver=DPMSolver(2))", code)
    imported: dict[str, object] = {}
    exec(imports, imported)
    exec(code, {**imported, **given, **others(code)})
