"""Signals that end a run: the first one lets it write a checkpoint, a second one acts as usual."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C's, and a scheduler's before its time limit or preemption."""


class Interruption:
    """Which signal came, if one did.

    Attributes:
        number: The signal's; None until then.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number is not None

    def leave(self, text: str) -> None:
        """End the program as the signal would: by KeyboardInterrupt, the caller's own handler, or exit status 143."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt(text)
        if self.number == signal.SIGTERM:
            if callable(handler := self._before.get(signal.SIGTERM)):
                handler(signal.SIGTERM, None)
            else:
                raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within it, in the main thread, the first SIGINT or SIGTERM is noted instead of raising; the next one acts as usual."""
    came = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    came._before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in came._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop(number: int, _: Any) -> None:
        came.number = number
        restore()

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        restore()


def deaf(_: int = 0) -> None:
    """Leave these signals, which a terminal and a scheduler send to all processes of a run, to the one that trains."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
