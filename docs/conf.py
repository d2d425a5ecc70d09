"""Sphinx configuration."""

import os
import re
import warnings
from pathlib import Path

import matplotlib

import fnodiff

project = "fnodiff"
author = "The fnodiff developers"
copyright = "2026, " + author
version = release = fnodiff.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
default_role = "code"
exclude_patterns = ["_build", "mechanisms", "*gallery/*.ipynb", "*gallery/*.md5", "**/.ipynb_checkpoints"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False

# The tutorials' cells run when their page is read; `-D nb_execution_mode=off` leaves them out. No cache, as it would keep the
# outputs of an older fnodiff. The kernels draw by docs/matplotlibrc.
myst_heading_anchors = 2  # links to sections of other pages
nb_execution_mode = "force"
nb_execution_in_temp = True  # what they write goes with it
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent)
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, of widgets that a page does not need

# Links to the pages of others need their inventories, from the network: FNODIFF_INTERSPHINX=1 where there is one. Without, the
# names of their types are plain text, and the build reaches out to nobody.
if os.environ.get("FNODIFF_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }

html_theme = "furo"
html_title = "fnodiff"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["copy.js"]
suppress_warnings = ["config.cache"]


def _arguments(conf: dict, script: dict) -> list[str]:
    """The command line of a gallery script: the models that came with the example; the mechanisms take no arguments."""
    if Path(script["src_file"]).parent.name != "examples":
        return []
    return ["--out", "../docs/_build/runs"]


def _look(conf: dict, script: str | None) -> None:
    """One look for the figures of the mechanisms, set anew before each script."""
    if script is None or not (Path(__file__).parent / "mechanisms" / script).exists():
        return
    colors = ["#1f4e79", "#c0504d", "#5b8c5a", "#8064a2", "#b8860b", "#555555"]
    matplotlib.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": matplotlib.cycler(color=colors),
            "axes.linewidth": 0.6,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "font.size": 9,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "lines.linewidth": 1.5,
        }
    )


sphinx_gallery_conf = {
    "examples_dirs": ["../examples", "mechanisms"],
    "gallery_dirs": ["gallery", "mechanisms_gallery"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": _arguments,
    "reset_modules": ("matplotlib", _look),
    "capture_repr": (),
    "image_srcset": ["2x"],
    "default_thumb_file": "docs/_static/ffhq_superres.png",
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
}
warnings.filterwarnings("ignore", category=FutureWarning)


def _docstring(app, what, name, obj, options, lines):
    """Docstrings are written to be read as text: show indented equations as they stand, and stars and bars as themselves."""
    out, literal = [], False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not literal and (i == 0 or not lines[i - 1].strip()) and not re.match(r"\s*(:|\.\.)", line):
            out += ["::", ""]
            literal = True
        literal = literal and (indented or not line.strip())
        if not literal:
            parts = re.split(r"(``?[^`]+``?)", line)  # code stays as it is
            parts[::2] = [re.sub(r"(?<!\\)(\*(?=\w)|\|)", r"\\\1", part) for part in parts[::2]]
            line = "".join(parts)
        out.append(line)
    lines[:] = out


def _to_gallery(app, docname, source):
    """Links to a script, which is what there is where the code is read, lead to its page in the gallery here."""
    text = re.sub(r"\]\(((?:\.\./)*)\.\./examples/(\w+)\.py\)", r"](\1gallery/\2)", source[0])
    text = re.sub(r"\]\(((?:\.\./)*)mechanisms/(\w+)\.py\)", r"](\1mechanisms_gallery/\2)", text)
    source[0] = text.replace("](../mechanisms)", "](../mechanisms_gallery/index)")


def setup(app):
    """Sphinx's entry point."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon reads the sections
    app.connect("source-read", _to_gallery)
