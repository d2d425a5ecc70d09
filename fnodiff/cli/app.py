"""The command line as a whole: its commands, a file of settings below the flags, and one line for whatever is wrong."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from fnodiff import __version__
from fnodiff.cli.arguments import read_toml
from fnodiff.cli.errors import TRACEBACK, explained, one_line, status_of

COMMANDS = {
    "train": "Train a model on pictures or fields, on several grids at once.",
    "finetune": "Go on training a model for a finer grid: the paper's mixed fine-tuning.",
    "sample": "Draw samples of a model into a folder.",
    "upscale": "Draw finer pictures of a coarse one.",
    "evaluate": "Measure how far samples are from true fields, at each size.",
    "report": "Measure how far the grid still matters to a model.",
    "app": "Show a page to play with a model, or write the files of a Hub Space.",
    "convert": "Write a model of the old format in today's.",
}
PLACES = {"finetune": "train", "report": "evaluate", "app": "play"}
RESUMABLE = ("train", "finetune", "sample", "upscale", "evaluate")
HELP = """Diffusion models on function spaces: train on a few resolutions, sample on any grid.

MODEL is a folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id (owner/name).
`fnodiff COMMAND --help` lists a command's options. They can stand in a TOML file too (`--config FILE.toml`): a table for each
command, such as `[train]`, with options as keys. What is said on the command line comes first.
Several processes share the work: `accelerate launch -m fnodiff COMMAND ...`."""


def application(config: Dict | None = None, command: str = "") -> App:
    """The commands, below them the settings of a file; the help of the one that is run is its docstring."""
    app = App(
        name="fnodiff",
        help=HELP,
        version=f"fnodiff {__version__}",
        config=config,
        default_parameter=Parameter(negative_iterable=(), negative_none=()),
        suppress_keyboard_interrupt=False,
    )
    for place, (name, text) in enumerate(COMMANDS.items()):
        shown = None if name == command else text
        app.command(f"fnodiff.cli.{PLACES.get(name, name)}:{name}", name=name, help=shown, sort_key=place)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of these arguments (by default those of the process) and return its exit status.

    0: done. 1: it began and failed, or fnodiff is at fault (FNODIFF_TRACEBACK=1 in the environment shows where). 2: an
    argument, a file or a folder is not what it should be. 130: stopped by Ctrl-C.
    """
    tokens = [str(token) for token in (sys.argv[1:] if arguments is None else arguments)]
    name = tokens[0] if tokens and tokens[0] in COMMANDS else ""
    try:
        app = application(settings(tokens, name), name)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return 0
    except CycloptsError as error:
        status, text = 2, explained(error, name, list(COMMANDS))
    except BrokenPipeError:  # who read what is printed has left: `fnodiff report run | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # wrong arguments and damaged files make libraries raise errors of nearly every kind
        if os.environ.get(TRACEBACK):
            raise
        status, text = status_of(error), one_line(error)
    except KeyboardInterrupt as error:
        goes_on = "; the same command goes on where it was" if name in RESUMABLE else ""
        status, text = 130, one_line(error) or f"stopped{goes_on}"
    print(f"{f'fnodiff {name}'.strip()}: {text}", file=sys.stderr)
    return status


def settings(tokens: Sequence[str], command: str) -> Dict | None:
    """What the file of `--config` says."""
    split = [part for token in tokens for part in (token.split("=", 1) if token.startswith("--config=") else [token])]
    named = [after for token, after in itertools.pairwise([*split, ""]) if token == "--config"]
    if not named or not command:
        return None
    path = Path(named[-1])
    if not path.is_file():
        raise ValueError(f"expected --config FILE.toml, got {named[-1]!r}, which is no file; name one.")
    data = read_toml(path)
    if command not in data or not all(key in COMMANDS and isinstance(data[key], dict) for key in data):
        raise ValueError(
            f"expected {path} with a table [{command}], and those of other commands, got {', '.join(data) or 'nothing'}; "
            f"write the options below it."
        )
    return Dict(data, source=str(path))
