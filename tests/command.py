"""The command `fnodiff` within the tests' process, and what it is tried on."""

from __future__ import annotations

from pathlib import Path

import torch

from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, Torus, WhiteNoise
from fnodiff.cli import main
from fnodiff.cli.app import application, settings
from fnodiff.cli.drawing import read_picture, write_picture
from fnodiff.train import STATE

SMALL = {"num_blocks": 0, "zero_init": False}
TRAIN = """
[train]
shapes = [16, 24]
steps = 3
batch = 4
network = "tiny"
hidden-channels = 8
num-blocks = 0
save_every = 2
quiet = true

[sample]
steps = 3
quiet = true
device = "cpu"
"""


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def drawn(command: str, *arguments: object, steps: int = 3) -> int:
    return run(command, *arguments, "--steps", steps, "--device", "cpu", "--quiet")


def parsed(*tokens: object) -> dict[str, object]:
    """What a command's function is called with."""
    tokens = [str(token) for token in tokens]
    bound = application(settings(tokens, tokens[0])).parse_args(tokens, exit_on_error=False, print_error=False)[1]
    bound.apply_defaults()
    return bound.arguments


def state(folder: Path) -> dict[str, object]:
    return torch.load(folder / STATE, weights_only=True)


def same_weights(first: Path, second: Path) -> bool:
    a, b = (Model.from_pretrained(folder).state_dict() for folder in (first, second))
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def close(file: Path, x: torch.Tensor) -> bool:
    """Whether a file shows a picture, to the levels of its pixels."""
    return float((read_picture(file) - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5


def wavy(count: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
    return 0.3 * field.sample((count, 3, *shape), generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


def trained(folder: Path) -> Path:
    """A folder of pictures, a file of options small.toml, and a model `run` that was trained on them by the command."""
    (folder / "pictures").mkdir()
    for i, x in enumerate(wavy(40, (40, 36))):
        write_picture(folder / "pictures" / f"{i:02}.png", x)
    (folder / "small.toml").write_text(TRAIN)
    options = ["--config", folder / "small.toml", "--out", folder / "run", "--reproducible"]
    assert run("train", folder / "pictures", *options) == 0
    return folder


def untrained(folder: Path) -> Path:
    """A folder of models without training: of pictures (twice), of fields, with classes, with a conditioning field."""
    for name, domain, channels, more in (
        ("images", Box(2), 3, {}),
        ("periodic", Box(2), 3, {"boundary": "periodic"}),
        ("fields", Torus(2), 2, {}),
        ("classes", Box(2), 3, {"num_classes": 2}),
        ("conditioned", Box(2), 3, {"condition_channels": 1}),
    ):
        torch.manual_seed(0)
        net = DFU.tiny(channels, channels, domain=domain, **SMALL, **more)
        process = FunctionSpaceSDE(WhiteNoise(domain, (16, 16)), EDM())
        Model(net, process, EDMScaling(), cell_averages=channels == 3).save_pretrained(folder / name)
    return folder
