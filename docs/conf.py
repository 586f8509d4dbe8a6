"""Settings of the documentation site: `sphinx-build -W docs docs/_build/html` (pip install -e ".[docs]")."""

import importlib
import re
import textwrap
from pathlib import Path

from sphinx.util import logging

import vae_jax
from vae_jax import configuration
from vae_jax.models import FAMILIES

project = "vae_jax"
author = "the vae_jax authors"
release = vae_jax.__version__

extensions = [
  "myst_nb",  # Markdown pages and notebooks
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "vae_jax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]

nb_execution_mode = "force"  # -D nb_execution_mode=off builds without running the notebook
nb_execution_timeout = 180  # seconds, for each cell
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress
nb_merge_streams = True

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
default_role = "code"


SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
CODE = re.compile(r"import \w+$|from [\w.]+ import ")
ITEM = re.compile(r"[\w, ]+(\([^)]*\))?: \S")


def plain_text(app, what, name, obj, options, lines):
  """Turns a docstring of plain text into reStructuredText, before napoleon reads its sections.

  Signs such as |x| and x * y are text; `code` is code, and so are lines of 4 spaces after a blank line; several lines
  of `name: meaning` are a list, whose items go on in deeper lines.
  """
  source, lines[:] = "\n".join(lines).strip("\n").split("\n\n"), []
  section = ""
  for paragraph in source:
    rows = paragraph.split("\n")
    if not rows[0].startswith(" "):
      section = SECTION.match(rows[0]) and rows[0]
    if section == "Returns:":  # napoleon would take words before a colon for a type
      body = rows[1:] if rows[0] == section else rows
      lines += [":returns:"] if rows[0] == section else []
      lines += [f"  {row}" for row in listed(body) or map(escape, map(str.strip, body))]
      lines.append("")
    elif section:
      lines += [*map(escape, rows), ""]
    elif all(row.startswith("    ") for row in rows) or CODE.match(rows[0]):
      lines += ["::", "", *(f"    {row}" for row in rows), ""]
    else:
      start = next((place for place, row in enumerate(rows) if row.startswith("  ")), 0)
      start = 0 if listed(rows) else start if listed(rows[start:]) else len(rows)
      lines += [*map(escape, map(str.strip, rows[:start])), "", *listed(rows[start:]), ""]


def listed(rows):
  """The rows as the items of a list, if at least two of them begin with `name: `; else none."""
  rows = textwrap.dedent("\n".join(rows)).split("\n")
  items = sum(bool(ITEM.match(row)) for row in rows)
  if items < 2 or not ITEM.match(rows[0]):
    return []
  return [f"  {escape(row.strip())}" if row.startswith(" ") else f"- {escape(row)}" for row in rows]


def escape(line):
  """Keeps `code` as code and every other sign as itself."""
  parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
  for place, part in enumerate(parts):
    if place % 2:
      parts[place] = f"``{part.strip('`')}``"
    else:
      parts[place] = re.sub(r"([\\*|]|_(?=\W|$))", r"\\\1", part)
  return "".join(parts)


def skip_fields(app, what, name, obj, skip, options):
  """Leaves out the fields of named tuples, which the class's docstring has, and what flax adds to a class."""
  return True if type(obj).__name__ == "_tuplegetter" or name == "replace" else None


def short_types(app, what, name, obj, options, signature, returns):
  """Writes Array for jax.Array, wherever jax keeps it."""
  shorten = lambda text: text and re.sub(r"(jaxlib\._jax\.|jax\.|jaxtyping\.)(?=Array)", "", text)  # noqa: E731
  return shorten(signature), shorten(returns)


def write_keys(app):
  """Writes api/keys.md: the keys of each model family, as `--help` shows them."""
  lines = [
    "# Configuration keys",
    "",
    "Set a key with `--config.KEY=VALUE`. Each model family has the keys it uses.",
  ]
  for family in FAMILIES:
    config = configuration.base_config(family)
    lines += ["", f"## {family}", "", "```text", configuration.describe(config, config, 100), "```"]
  path = Path(app.srcdir) / "api" / "keys.md"
  text = "\n".join([*lines, ""])
  if not path.exists() or path.read_text() != text:
    path.write_text(text)


def check_names(app, env):
  """Warns of a public function or class that no page of api/ has."""
  known = env.get_domain("py").objects
  for page in (Path(app.srcdir) / "api").glob("*.md"):
    for module in re.findall(r"automodule:: ([\w.]+)", page.read_text()):
      part = importlib.import_module(module)
      for name in part.__all__:
        if callable(getattr(part, name)) and f"{module}.{name}" not in known:
          logging.getLogger(__name__).warning(
            "%s.%s has no docstring, so the API reference lacks it", module, name
          )


def setup(app):
  app.connect("env-check-consistency", check_names)
  app.connect("builder-inited", write_keys)
  app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon's
  app.connect("autodoc-process-signature", short_types)
  app.connect("autodoc-skip-member", skip_fields)
