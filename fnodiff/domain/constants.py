"""Constant tensors: made once for each grid, precision and device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

_KEEPERS: list[list[Any]] = []


def cached(make: Callable) -> Callable:
    """Remember constant tensors.

    They are made in a thread of their own, where neither inference mode nor autocast, a function transform or a compiler's
    tracing is on: whatever asked for them first, they serve all.
    """

    @functools.lru_cache(maxsize=128)
    def kept(*args: Any) -> tuple[Any]:
        with ThreadPoolExecutor(1) as thread:
            return (thread.submit(make, *args).result(),)

    def constant(*args: Any) -> tuple[Any]:
        return kept(*args)

    # What torch.compiler.assume_constant_result sets, without loading the compiler: constants for compiled code too. They are
    # wrapped in a tuple, as dynamo gives all bare tensors from one such function one name, which its backends refuse.
    constant._dynamo_marked_constant = True

    @functools.wraps(make)
    def get(*args: Any) -> Any:
        value = constant(*args)[0]
        if _KEEPERS:
            _KEEPERS[-1].append(value)
        return value

    return get


@contextmanager
def constants_in(keeper: list[Any]) -> Iterator[None]:
    """Within it, the constants that are asked for are put into a list too, so that they outlive the cache."""
    _KEEPERS.append(keeper)
    try:
        yield
    finally:
        _KEEPERS.pop()
