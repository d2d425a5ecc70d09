"""What is wrong with a command line, in one line: expected this, got that; do so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError
from cyclopts.exceptions import ConsumeMultipleError, UnknownCommandError, UnusedCliTokensError

KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def one_line(error: BaseException) -> str:
    """An error's text, without line breaks and without the name of the function that raised it."""
    if isinstance(error, OSError) and error.strerror:
        return f"expected a file or folder that can be used, got {error.filename}: {error.strerror}; name another one."
    if isinstance(error, ImportError):
        return f"expected all packages that this needs, got {' '.join(str(error).split())}; install what is missing."
    text = " ".join(str(error).split())
    return re.sub(r"^[A-Za-z_.]+: (?=expected )", "", text)


def explained(error: CycloptsError, command: str, commands: Sequence[str]) -> str:
    """An error of the parser in the words of this package."""
    expected, got, do = "other arguments", f"these: {one_line(error)}", ""
    token = getattr(error, "token", None)
    where = f" in {token.source}" if token is not None and token.source != "cli" else ""
    if isinstance(error, UnknownCommandError):
        expected, got = f"a command among {', '.join(commands)}", repr((error.unused_tokens or ["?"])[0])
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
