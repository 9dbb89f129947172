"""Sphinx's settings. `make docs` makes the pages first (docs/pages.py). Nothing asks a network."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

project = "microclimate"
author = "the microclimate authors"
copyright = author
html_title = project
extensions = ["myst_nb"]
nb_execution_mode = "off"  # pages.py has done it
nb_merge_streams = True
nb_output_stderr = "remove"
nb_code_prompt_show = "Source"
nb_code_prompt_hide = "Source"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page may begin with a description
add_module_names = False
python_display_short_literal_types = True
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def formula(writer, node):
    "MathML, which browsers draw by themselves: no script, no font, no network."
    try:
        drawn = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        raise ExtensionError(f"write this formula otherwise: {node.astext()!r}: {error}") from error
    writer.body.append(drawn)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))


html_math_renderer = "mathml"
