"""Values of wrong kinds, shapes and ranges: each is refused with what was expected, or works."""

from __future__ import annotations

import contextlib
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from anything import TARGETS, VALUES
from hypothesis import HealthCheck, given, settings

from fnodiff.expected import WrongKind, as_tensor, at_least, described, kinds_checked

OURS = ("spectrum", "f", "predictor", "network", "function", "operator")
"""Functions of the user's: what they raise is theirs."""


class Late(BaseException):
    """Raised where a call takes longer than it should."""


def late(*_: Any) -> None:
    raise Late


@pytest.fixture(autouse=True, scope="module")
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A name of any characters may be written to."""
    with contextlib.chdir(tmp_path_factory.mktemp("anything")):
        yield


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A name of a target, and one or two bad arguments."""
    name = draw(st.sampled_from(sorted(TARGETS)))
    arguments = draw(st.lists(st.sampled_from(sorted(TARGETS[name][1])), min_size=1, max_size=2, unique=True))
    values = st.sampled_from(VALUES) | st.floats(-1e15, 1e15) | st.integers(-(10**30), 30) | st.text(max_size=3)
    return name, {argument: draw(values) for argument in arguments}


def has_nan(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all())


def is_refused_or_works(name: str, bad: dict[str, Any]) -> None:
    make, good, use = TARGETS[name]
    if any(argument in OURS and callable(value) for argument, value in bad.items()):
        return
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 20)  # of the processor's time, whatever else runs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = use(make(**{**good, **bad}))
    except (ValueError, TypeError) as error:
        assert any(word in str(error) for word in ("expected", "pass ", "remove it", "cannot be read")), repr(error)
    except FloatingPointError:
        pass
    except Late:
        assert float(bad.get("time", 0)) > 100, "this call hangs"  # a flow is solved for as long as was asked
    else:
        if not any(map(has_nan, bad.values())) and isinstance(out, torch.Tensor) and out.is_floating_point():
            assert bool(out.isfinite().all())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_any_input_is_refused_with_what_was_expected_or_works(call: tuple[str, dict[str, Any]]) -> None:
    is_refused_or_works(*call)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_any_input_of_many(call: tuple[str, dict[str, Any]]) -> None:
    is_refused_or_works(*call)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_good_arguments_work(name: str) -> None:
    make, good, use = TARGETS[name]
    out = use(make(**good))
    assert out is None or bool(out.isfinite().all())


@kinds_checked
def taken(
    count: int = 1,
    share: float | None = None,
    flag: bool = False,
    sizes: tuple[int, ...] = (),
    pair: tuple[float, float] = (0.0, 1.0),
    x: torch.Tensor | None = None,
    *,
    free: Any = None,
) -> tuple[Any, ...]:
    return count, share, flag, sizes, pair, x


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", np.int64(3), 3),
        ("count", torch.tensor(3), 3),
        ("share", np.float32(0.5), 0.5),
        ("share", np.array(2), 2),
        ("flag", np.bool_(True), True),
        ("sizes", np.arange(3), (0, 1, 2)),
        ("sizes", [4, np.int8(5)], (4, 5)),
        ("pair", torch.tensor([1.0, 2.0]), (1.0, 2.0)),
    ],
)
def test_numbers_become_plain(name: str, value: Any, expected: Any) -> None:
    got = dict(zip(("count", "share", "flag", "sizes", "pair", "x"), taken(**{name: value}), strict=True))[name]
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"count": 0.5}, "taken: expected count as a whole number, got 0.5"),
        ({"count": True}, "expected count as a whole number, got True"),
        ({"count": 2**63}, "a whole number"),
        ({"share": float("nan")}, "expected share as a number or None, got nan"),
        ({"flag": 1}, "expected flag as True or False, got 1"),
        ({"sizes": "12"}, "expected sizes as a sequence of "),
        ({"pair": (1.0, 2.0, 3.0)}, "expected pair as a sequence of "),
        ({"x": np.array(["a"])}, r"expected x as a tensor or None, got ndarray of <U1, \(1,\)"),
    ],
)
@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_wrong_kinds_are_both_errors(given_: dict[str, Any], message: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=message):
        taken(**given_)


def test_arrays_of_any_layout_become_tensors() -> None:
    array = np.arange(6.0).reshape(2, 3).astype(">f8")[:, ::-1]
    array.flags.writeable = False
    assert as_tensor(array).tolist() == [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
    assert taken(x=array)[-1].dtype == torch.float64
    with pytest.raises(WrongKind, match=r"expected x as numbers: .*, got \['a'\]"):
        as_tensor(["a"], "x")


def test_ranges_are_named() -> None:
    at_least("f", 1, a=1, b=2.5)
    with pytest.raises(ValueError, match=r"f: expected b >= 1, got 0\.5"):
        at_least("f", 1, a=1, b=0.5)
    assert described(torch.zeros(2, 3)) == "Tensor of float32, (2, 3)"
