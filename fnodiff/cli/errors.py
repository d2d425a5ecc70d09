"""What is wrong with a command line, in one line: expected this, got that; do so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError
from cyclopts.exceptions import ConsumeMultipleError, RepeatArgumentError, UnknownCommandError, UnusedCliTokensError

TRACEBACK = "FNODIFF_TRACEBACK"
"""The environment variable with which errors are raised, for who looks for their cause."""
KINDS = {int: "a whole number", int | None: "a whole number", float: "a number", bool: "true or false"}


WRONG = (ValueError, OSError, ImportError, EOFError, MemoryError, OverflowError, RecursionError)
"""What arguments, files and folders that are not as they should be make Python, and this package, raise."""
READERS = {
    "_csv",
    "_pickle",
    "lzma",
    "pickle",
    "safetensors_rust",
    "scipy",
    "struct",
    "tarfile",
    "zarr",
    "zipfile",
    "zlib",
}
"""Modules whose own kinds of errors say that a file is damaged."""


def status_of(error: Exception) -> int:
    """The exit status: 2 if an argument, a file or a folder is wrong, 1 if a run failed or this package is at fault."""
    wrong = isinstance(error, WRONG) or type(error).__module__.split(".")[0] in READERS
    return 2 if wrong or _out_of_memory(error) else 1


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and re.search(r"out of memory|can't allocate memory|not enough memory", str(error))
    )


def one_line(error: BaseException) -> str:
    """An error's text, without line breaks and without the name of the function that raised it."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"expected a file or folder that can be used, got {named}{error.strerror}; name another one."
    if isinstance(error, ImportError):
        return f"expected all packages that this needs, got {' '.join(str(error).split())}; install what is missing."
    if _out_of_memory(error):
        return (
            "expected enough memory for this size and batch, got too little; take a smaller --batch, or a smaller grid."
        )
    text = str(error)
    if re.match(r"Caught \w+ in DataLoader worker process", text):  # what follows is the worker's traceback
        text = re.sub(r"^[\w.]+: ", "", text.rstrip().rpartition("\n")[2])
    text = re.sub(r"^[A-Za-z_.]+: (?=expected )", "", " ".join(text.split()))
    if isinstance(error, ValueError | FloatingPointError | KeyboardInterrupt):
        return text
    name = f"{type(error).__name__}: {text}"
    if isinstance(error, RuntimeError) or status_of(error) == 2:
        return name
    return f"{name}; this is a fault of fnodiff: report it, please, with what {TRACEBACK}=1 in the environment shows."


def explained(error: CycloptsError, command: str, commands: Sequence[str]) -> str:
    """An error of the parser in the words of this package."""
    expected, got, do = "other arguments", f"these: {' '.join(str(error).split())}", ""
    token = getattr(error, "token", None)
    where = f" in {token.source}" if token is not None and token.source != "cli" else ""
    if isinstance(error, UnknownCommandError):
        expected, got = f"a command among {', '.join(commands)}", repr((error.unused_tokens or ["?"])[0])
    elif isinstance(error, RepeatArgumentError):
        expected, got = f"{token.keyword or error.argument.name} once", "it several times"
    elif isinstance(error, ConsumeMultipleError):
        expected, got = f"values after {error.keyword or error.argument.name}", "none"
    elif isinstance(error, MissingArgumentError):
        name = error.argument.name.lstrip("-").upper() if error.argument.index is not None else error.argument.name
        expected, got = name if error.keyword is None else f"a value after {error.keyword}", "none"
    elif isinstance(error, UnknownOptionError):
        near = re.search(r"Did you mean (\S+)\?", str(error))
        do = f"take {near[1]}, or " if near else ""
        expected, got = f"an option of fnodiff {command}", (token.keyword or token.value) + where
    elif isinstance(error, CoercionError) and token is not None:
        name = token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "a value")
        target = error.target_type
        kind = KINDS.get(target, f"of type {getattr(target, '__name__', target)}")
        kind = f"one of {', '.join(map(str, get_args(target)))}" if get_origin(target) is Literal else kind
        expected, got = f"{name} to be {kind}", repr(token.value) + where
    elif isinstance(error, UnusedCliTokensError):
        expected, got = "no further arguments", " ".join(error.unused_tokens or [])
    return f"expected {expected}, got {got}; {do}see {f'fnodiff {command}'.strip()} --help"
