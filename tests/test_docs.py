"""The pages are true: links and anchors lead somewhere, commands parse, configs load, names import, data sets exist.

What is run of the README's code is in test_readme.py; `make docs` builds the site and refuses any warning.
"""

import ast
import importlib
import re
import runpy
import shlex
import shutil
from argparse import ArgumentError
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from detectron2.data import DatasetCatalog
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

import clipself_d2.cli
import clipself_d2.data
import clipself_d2.miniature  # registers data sets, as that above
from clipself_d2.command_line import ArgumentParser
from clipself_d2.engine.config import load_config
from clipself_d2.files import find_config
from clipself_d2.visualization.figures import figure_to_image
from reproduction.catalog import find

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clipself_d2"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "datasets/README.md", *ROOT.glob("docs/**/*.md")])
TEXT = {page: page.read_text() for page in PAGES}
SCRIPTS = ("clipself ", "python tools/", "python datasets/")
MARKDOWN = MarkdownIt("commonmark").enable("table")
# Before any test registers its own.
LOADERS = {name: getattr(load, "func", load) for name, load in DatasetCatalog.data.items()}
DATASETS = [name for name, load in LOADERS.items() if load.__module__.startswith("clipself_d2.")]


def tokens(page: Path) -> list[Token]:
    """Every token of a page, those within a line of text too."""
    return [token for block in MARKDOWN.parse(TEXT[page]) for token in (block, *(block.children or ()))]


TOKENS = {page: tokens(page) for page in PAGES}


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as code hosts make them."""
    found: set[str] = set()
    blocks = MARKDOWN.parse(TEXT[page])
    for opening, heading in pairwise(blocks):
        if opening.type == "heading_open":
            title = "".join(token.content for token in heading.children or ())
            found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


def links(page: Path) -> list[str]:
    return [str(t.attrs.get("href") or t.attrs["src"]) for t in TOKENS[page] if t.type in ("link_open", "image")]


def blocks(page: Path, *languages: str) -> list[str]:
    return [token.content for token in TOKENS[page] if token.type == "fence" and token.info in languages]


def commands(start: str) -> list[str]:
    """Commands of the pages' code blocks, each once."""
    return commands_in("\n".join(block for page in PAGES for block in blocks(page, "sh", "bash", "")), start)


def commands_of_configs() -> list[str]:
    docstrings = (ast.get_docstring(ast.parse(path.read_text())) or "" for path in sorted(ROOT.glob("configs/*/*.py")))
    return [c for start in SCRIPTS for c in commands_in("\n".join(docstrings), start)]


def commands_in(text: str, start: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part.split(" #")[0].strip() for line in lines for part in line.split("&&")]
    return list(dict.fromkeys(part for part in parts if part.startswith(start)))


def id_of(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


class Parsed(Exception):
    """A command's arguments were accepted."""


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Runs a tool's command line as far as its arguments are parsed, in an empty folder, as if its files were there."""

    def stop(method):
        def parse_and_stop(self, *args, **kwargs):
            raise Parsed(method(self, *args, **kwargs))

        return parse_and_stop

    convert = ArgumentParser._get_value

    def convert_if_there(self, action, text):
        try:
            return convert(self, action, text)
        except ArgumentError as error:
            if "no such" not in str(error):
                raise
            return text

    monkeypatch.setattr(ArgumentParser, "_get_value", convert_if_there)
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(ArgumentParser, name, stop(getattr(ArgumentParser, name)))
    monkeypatch.chdir(tmp_path)

    def parse(command: str):
        program, *argv = shlex.split(command)
        try:
            if program == "clipself":
                code = clipself_d2.cli.main(argv)
            else:
                monkeypatch.setattr("sys.argv", argv)
                code = runpy.run_path(str(ROOT / argv[0]))["main"]()
        except Parsed as parsed:
            return parsed.args[0]
        raise AssertionError(f"refused with code {code}")

    return parse


@pytest.mark.parametrize("command", [*(c for start in SCRIPTS for c in commands(start)), *commands_of_configs()])
def test_commands_parse(command, parse):
    args = parse(command)
    if (config := getattr(args, "config_file", None)) and not config.startswith("output/"):
        assert (ROOT / config).is_file() or find_config(config)
    if "reproduce.py" in command and args.table not in (None, "all"):
        find(args.table, args.scale)


@pytest.mark.parametrize("command", [c for start in SCRIPTS for c in commands(start) if "--config-file" in c])
def test_overrides_of_commands_are_keys_of_their_configs(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if not words[words.index("--config-file") + 1].startswith("output/"):
        load_config(words[words.index("--config-file") + 1], [word for word in words if re.match(r"[\w.]+=", word)])


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_picture_is_shown_described_and_small():
    shown = set()
    for page in PAGES:
        for token in (token for token in TOKENS[page] if token.type == "image"):
            shown.add((page.parent / str(token.attrs["src"])).resolve())
            assert len(token.content) > 20, f"{page}: {token.attrs['src']} needs an alt text"
    assert shown == set(ROOT.glob("docs/images/*"))
    assert not [path.name for path in shown if path.stat().st_size > 150_000]


def test_pictures_can_be_drawn_again():
    pictures = runpy.run_path(str(ROOT / "docs/pictures.py"))["PICTURES"]
    assert all((ROOT / "docs/images" / name).is_file() for name in pictures)
    for name in ("mask_resize.png", "scaling.png"):  # the fast ones; the second is read from a page's tables
        with Image.open(ROOT / "docs/images" / name) as kept:
            assert figure_to_image(pictures[name]()).size == kept.size


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_names_import(page):
    # A digit follows in the name of a file format.
    for name in set(re.findall(r"\bclipself_d2(?:\.[A-Za-z_]\w*)+\b(?!\.\d)", TEXT[page])):
        resolve(name)


def resolve(name: str) -> object:
    """The module, or what is in one, of a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("clipself_d2"):
                raise
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_files_exist(page):
    """Paths in inline code; modules below clipself_d2/, and configs by name. Capitals are placeholders."""
    spans = [token.content for token in TOKENS[page] if token.type == "code_inline"]
    folders = "|".join(["clipself_d2", "configs", "tools", "tests", "docs", *ROOMS])
    for span in spans:
        for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./*-]*[\w*](?![\w/<{{])", span):
            if not re.search(r"[A-Z]{2}", path):
                assert any((*ROOT.glob(path), *PACKAGE.glob(path), *ROOT.glob(f"configs/{path}.py"))), path


WITH_CODE = [page for page in PAGES if blocks(page, "python") and page.name != "architecture.md"]  # its are signatures


@pytest.mark.parametrize("page", WITH_CODE, ids=id_of)
def test_code_imports_what_exists(page, tmp_path, monkeypatch):
    for block in blocks(page, "python"):
        imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
        for node in imports:
            if (node.module or "").startswith("clipself_d2"):
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")
        if any(node.level for node in imports):  # a config among the others
            shutil.copytree(ROOT / "configs", tmp_path / "configs", dirs_exist_ok=True)
            (tmp_path / "configs/distillation/mine.py").write_text(block)
            monkeypatch.chdir(tmp_path)
            load_config(str(tmp_path / "configs/distillation/mine.py"))


@pytest.mark.parametrize("name", DATASETS)
def test_the_page_on_data_has_every_data_set(name):
    assert f"`{name}`" in TEXT[ROOT / "datasets/README.md"]


def test_data_sets_of_the_page_are_registered():
    table = TEXT[ROOT / "datasets/README.md"].split("## Names")[1].split("\n\n", 3)[2]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert not [name for cell in cells for name in re.findall(r"`(\w+)`", cell) if name not in DatasetCatalog]


def test_every_room_has_its_page_of_reference():
    assert {page.stem for page in PAGES if page.parent.name == "reference"} >= {*ROOMS, "errors", "command_line"}
