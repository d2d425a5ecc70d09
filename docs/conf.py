"""Sphinx configuration."""

import re
import warnings

import fnodiff

project = "fnodiff"
author = "The fnodiff developers"
copyright = "2026, " + author
version = release = fnodiff.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
default_role = "code"
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.md5"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False
html_theme = "furo"
html_title = "fnodiff"
html_static_path = ["_static"]
suppress_warnings = ["config.cache"]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "reset_argv": lambda conf, script_vars: ["--minutes", "3", "--samples", "64", "--out", "_build/runs"],
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
            parts[::2] = [re.sub(r"(?<!\\)([*|])(?=\w)|(?<=\w)\|", lambda m: "\\" + m[0], part) for part in parts[::2]]
            line = "".join(parts)
        out.append(line)
    lines[:] = out


def setup(app):
    """Sphinx's entry point."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon reads the sections
