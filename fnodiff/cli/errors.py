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
    see = f"see fnodiff {command} --help" if command else "see fnodiff --help"
    if isinstance(error, UnknownCommandError):
        return f"expected a command among {', '.join(commands)}, got {(error.unused_tokens or ['?'])[0]!r}; {see}"
    if isinstance(error, ConsumeMultipleError):
        return f"expected values after {error.keyword or error.argument.name}, got none; {see}"
    if isinstance(error, MissingArgumentError):
        name = error.argument.name
        if error.keyword is not None:
            return f"expected a value after {error.keyword}, got none; {see}"
        return f"expected {name.lstrip('-').upper() if error.argument.index is not None else name}, got none; {see}"
    if isinstance(error, UnknownOptionError):
        where = "" if error.token.source == "cli" else f" in {error.token.source}"
        near = re.search(r"Did you mean (\S+)\?", str(error))
        got = error.token.keyword or error.token.value
        return (
            f"expected an option of fnodiff {command}, got {got}{where}; {f'take {near[1]}, or ' if near else ''}{see}"
        )
    if isinstance(error, CoercionError) and error.token is not None:
        name = error.token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "a value")
        where = "" if error.token.source == "cli" else f" in {error.token.source}"
        return f"expected {name} to be {_kind(error.target_type)}, got {error.token.value!r}{where}; {see}"
    if isinstance(error, UnusedCliTokensError):
        return f"expected no further arguments, got {' '.join(error.unused_tokens or [])}; {see}"
    return f"expected other arguments, got these: {one_line(error)} {see}"


def _kind(target: type | None) -> str:
    if get_origin(target) is Literal:
        return f"one of {', '.join(map(str, get_args(target)))}"
    return KINDS.get(target, f"of type {getattr(target, '__name__', target)}")
