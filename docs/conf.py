"""The site: MyST, since the pages are Markdown; autodoc, since the docstrings run."""

import importlib.metadata
import re
from typing import Any

project = "keras_fanwise"
copyright = "the contributors of keras_fanwise"  # noqa: A001 (Sphinx's name)
release = importlib.metadata.version("keras_fanwise")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell types, shapes and what is allowed
autoclass_content = "class"
# What is in single backticks in a docstring is code.
default_role = "code"
# Attributes in a list of their own, and not each an entry of the contents.
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"keras_fanwise {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _bare_links)


def _bare_links(*arguments: Any) -> None:
    """In Markdown a link stands in `<>`, which reStructuredText would show."""
    lines = arguments[-1]
    lines[:] = [re.sub(r"<(https?://[^>]+)>", r"\1", line) for line in lines]
