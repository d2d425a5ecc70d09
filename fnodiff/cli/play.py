# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff app: a page to play with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fnodiff.cli.arguments import General, Source
from fnodiff.cli.sample import check_gpu, read_model


def app(
    model: Source,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    classes_from: str | None = None,
    space: Path | None = None,
    licence: str | None = None,
    general: General = General(),
) -> None:
    """Show a page to play with a model, until Ctrl-C; it needs `pip install fnodiff[app]`.

    fnodiff app run

    One function at several sizes; a picture, upscaled several times; sensors placed by clicks. With --space nothing is shown:
    the files of a Hub Space are written, which shows the page to everybody.

    Args:
        host: Who can open the page: this machine, or with 0.0.0.0 others of its network.
        port: By default the first free one from 7860.
        browser: Open the page in a browser.
        device: Where samples are drawn.
        classes_from: A Python file or module, which is run, with classes that config.json names.
        space: Folder for a Space's files; weights of a folder are written beside them.
        licence: Of the Space, as the hub names licences: mit, cc-by-4.0, other.
    """
    if (space is None) != (licence is None):
        raise ValueError("expected --space FOLDER and --licence together, got one of them; add the other, such as mit.")
    check_gpu(device)
    read = read_model(model, classes_from)
    if space is not None:
        from fnodiff.hub import write_space

        print(write_space(space, read if Path(model).is_dir() else model, licence=licence))
        return

    from fnodiff.cost import keep_freed_memory
    from fnodiff.page import serve

    keep_freed_memory()
    serve(read.to(device), model, server_name=host, server_port=port, inbrowser=browser, quiet=general.quiet)
