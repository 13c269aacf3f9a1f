"""The documentation's build: `make docs` reads the Markdown of the repository and writes output/docs.

The source folder is the repository's root, so that a link between README, docs/ and datasets/ is the same here and
wherever the repository is read.
"""

import importlib
import pkgutil
import re

from sphinx.application import Sphinx

import clipself_d2

project = "clipself_d2"
author = "The clipself_d2 contributors"
release = version = clipself_d2.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "datasets/README.md"]
exclude_patterns = [".*", "*.egg-info", "build", "clipself_d2", "configs", "datasets/*/**", "output", "tests", "tools"]

myst_heading_anchors = 4  # the anchors that code hosts give to headings
suppress_warnings = ["misc.highlighting_failure"]  # architecture.md shows signatures as Python
default_role = "py:obj"  # a name between single backticks is a link where it is known
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "clipself_d2"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False


def reference(package: str) -> str:
    """Markdown that asks for the docstrings of everything public in a module or a package."""
    module = importlib.import_module(package)
    exported = ", ".join(f"{{py:obj}}`~{getattr(module, name).__module__}.{name}`" for name in exports(module))
    text = f"\n```{{eval-rst}}\n.. automodule:: {package}\n   {':no-members:' if exported else ''}\n```\n"
    if exported:
        text += f"\n`from {package} import` {exported}\n"
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{package}."):
        text += f"\n## `{found.name}`\n\n```{{eval-rst}}\n.. automodule:: {found.name}\n```\n"
    return text


def commands() -> str:
    """Markdown with what each command of `clipself` says of itself."""
    text = ""
    cli = importlib.import_module("clipself_d2.cli")
    for name in cli.COMMANDS:
        module = cli.command_module(name)
        says = f"{module.__doc__}{getattr(module, 'EXAMPLES', '')}".strip()
        text += f"\n## `clipself {name}`\n\n```text\n{says}\n```\n"
    return text


def exports(module: object) -> list[str]:
    """Classes and functions that a package offers by its own name."""
    return [name for name in getattr(module, "__all__", ()) if hasattr(getattr(module, name), "__module__")]


def add_reference(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the page docs/reference/PACKAGE the docstrings of clipself_d2.PACKAGE."""
    folder, _, package = docname.rpartition("/")
    if folder == "docs/reference":
        source[0] += commands() if package == "cli" else reference(f"clipself_d2.{package}")


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn single backticks, Markdown's mark of code, around what is no name into a literal."""
    text = re.sub(r"(?<![`:\w])`(?!`)((?:[^`\n]|\n(?!\s*\n))+)`(?!`)", literal, "\n".join(lines))
    lines[:] = text.split("\n")


def literal(code: re.Match[str]) -> str:
    """A name as it is, other code between double backticks."""
    return code[0] if re.fullmatch(r"[\w.]+", code[1]) else f"``{code[1]}``"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", mark_code, priority=100)  # before Napoleon's sections
    app.connect("source-read", add_reference)
