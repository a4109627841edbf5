"""The site: MyST, since the pages are Markdown; autodoc, since the docstrings run."""

import importlib.metadata

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

html_theme = "furo"
html_title = f"keras_fanwise {release}"
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
