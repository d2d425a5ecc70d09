"""The command `fnodiff`: train, fine-tune, sample, upscale, evaluate, report, app, convert.

A command is a function whose arguments are the command's. What reads slowly (torch, neuralop) is imported inside the
functions, so that `fnodiff --help` is there at once.
"""

from fnodiff.cli.app import main

__all__ = ["main"]
