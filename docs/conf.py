"""The configuration of the documentation site: `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import docstrings
from sphinx.application import Sphinx

import fastslow

project = "fastslow"
author = "The fastslow authors"
copyright = "The fastslow authors; Apache-2.0"
release = version = fastslow.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": False}
add_module_names = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"fastslow {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


HERE = {
    "../RESULTS.md": "all-results.md",
    "../src/fastslow/models/english/README.md": "english-model.md",
}
"""Files outside this folder that have a page here: links name the file, so that they work on GitHub too."""


def lead_here(app: object, name: str, source: list[str]) -> None:
    """Let links to files that have a page lead to it."""
    for file, page in HERE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("source-read", lead_here)
