"""Parsing a user's vocabulary: a file, or words on the command line."""

from __future__ import annotations

import json
import logging
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.label_sets import class_names

logger = logging.getLogger(__name__)

ClassNames = Sequence[str | Sequence[str]]

_MOST_SHOWN = 30  # classes or repetitions in a message

_CHINESE = "\uff0c\u3001\uff1b\uff0f"
_ASCII = str.maketrans(_CHINESE, ",,;/")
_SEPARATORS = f",;/.:\n{_CHINESE}"
# Within quotes the separators are characters of Unicode's private use area until the text is split.
_HIDE = {ord(char): 0xE000 + number for number, char in enumerate(_SEPARATORS)}
_SHOW = {hidden: char for char, hidden in _HIDE.items()}
_QUOTED = re.compile(r'["“]([^"“”]*)["”]')
_NUMBERED = re.compile(r"\s*\d+\s*:")
_PATH = re.compile(r"(~|\.{1,2})?/.*|[^,;]+\.(txt|json|ya?ml|csv|tsv|names|md|xlsx?|pbtxt)", re.IGNORECASE)


def read_vocabulary(source: str) -> list[tuple[str, ...]]:
    """Parse classes, each a tuple of synonyms, the first of which is its name.

    Args:
        source: the path of a file, or words.

            - Words, ``"cat, hot dog/frankfurter"``: commas (also those of Chinese) separate classes, slashes synonyms.
              With semicolons, ``"cat; hot dog, frankfurter"``, they separate classes and commas synonyms, as in ODISE.
            - A text file has one class per line, its synonyms separated by commas. A number and a colon at the start of
              all lines and classes called ``invalid_class_id`` are left out: files of ODISE and FC-CLIP.
              Where classes share their first synonym, as in ADE20K's list, they are named by all of them.
            - A JSON file is a list of names and of lists of synonyms.
            - A YAML file has such a list, or a name per number, as ``names``: data.yaml of YOLO.

            Double quotes keep a name with separators together. A comma at the end does not matter.

    Raises:
        InputError: a file that cannot be read or has another format; an empty, repeated or wrongly typed class; dots
            between classes.
    """
    path = os.path.expanduser(source.strip())  # noqa: PTH111 - pathlib raises for words that are too long for a path
    if os.path.isfile(path):  # noqa: PTH113
        return _read_file(Path(path))
    if _PATH.fullmatch(source.strip()):
        raise InputError(f"{source}: there is no such file of classes: check the path, or separate words by commas")
    return parse_words(source)


def parse_words(words: str) -> list[tuple[str, ...]]:
    """Parse words as `read_vocabulary` does, but never take them for the path of a file."""
    if not words.strip():
        raise InputError("the vocabulary is empty: give words separated by commas, or a file of classes")
    text = _hide_quoted(words, "the vocabulary")
    _refuse_dots(text, alone=True)
    if ";" in text:
        return check_vocabulary([_synonyms(part, ",/") for part in _split(text, ";")])
    return check_vocabulary([_synonyms(word, "/") for word in _split(text, ",\n")])


def check_vocabulary(vocabulary: ClassNames, lines: Sequence[int] = ()) -> list[tuple[str, ...]]:
    """Each class (a name, or a list or tuple of names) as a tuple of synonyms.

    Args:
        vocabulary: the classes.
        lines: where each class stands in its file, for messages. None: they count from 0.

    Raises:
        InputError: an empty or wrongly typed class; all that are repeated, in one message.
    """
    if isinstance(vocabulary, str) or len(vocabulary) == 0:
        raise InputError("the vocabulary must be a list of at least one class name")
    classes = [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in vocabulary]
    for number, synonyms in enumerate(classes):
        if not synonyms or not all(map(_is_name, synonyms)):
            place = f"line {lines[number]}" if lines else f"class {number}"
            raise InputError(f"{place} of the vocabulary is {vocabulary[number]!r}: give a name or a list of names")
    refuse_repeated(classes, "class", lines)
    for synonyms in classes:
        if len(set(synonyms)) < len(synonyms):
            raise InputError(f"class {synonyms[0]!r} of the vocabulary: a synonym is given twice: remove one")
    return classes


def _is_name(name: Any) -> bool:
    """Whether it is text with a letter, and without the surrogates that stand for bytes of no text."""
    return isinstance(name, str) and bool(name.strip()) and not re.search("[\ud800-\udfff]", name)


def refuse_repeated(classes: Sequence[tuple[str, ...]], what: str, lines: Sequence[int] = ()) -> None:
    """Raise an InputError that lists all classes which are given more than once, with their places."""
    places: dict[tuple[str, ...], list[int]] = {}
    for place, synonyms in zip(lines or range(len(classes)), classes, strict=True):
        places.setdefault(synonyms, []).append(place)
    if len(places) == len(classes):
        return
    unit = "lines" if lines else "numbers"
    repeated = [
        f"'{'/'.join(synonyms)}' is given twice ({unit} {', '.join(map(str, own))})"
        for synonyms, own in places.items()
        if len(own) > 1
    ]
    raise InputError(f"vocabulary: {what} {_join(repeated)}: keep one of each")


def describe_classes(classes: Iterable[Sequence[str]]) -> str:
    """Tell in a line how a vocabulary was read: ``2 classes: cat, hot dog/frankfurter``."""

    def quoted(name: str) -> str:
        return f'"{name}"' if any(char in name for char in ",/;") else name

    shown = ["/".join(map(quoted, synonyms)) for synonyms in classes]
    return f"{len(shown):,} class{'es' if len(shown) > 1 else ''}: {_join(shown)}"


def _join(items: Sequence[str]) -> str:
    return ", ".join(items[:_MOST_SHOWN]) + (f" and {len(items) - _MOST_SHOWN:,} more" * (len(items) > _MOST_SHOWN))


def _read_file(path: Path) -> list[tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: this vocabulary cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: this vocabulary is not text in UTF-8: save it as UTF-8") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return check_vocabulary(_yaml_classes(text))
        if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
            return check_vocabulary(_json_classes(text))
        return _text_classes(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _json_classes(text: str) -> list[Any]:
    try:
        classes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this vocabulary is not JSON ({error})") from None
    if not isinstance(classes, list):
        raise InputError("a JSON vocabulary is a list of names or of lists of synonyms")
    return classes


def _yaml_classes(text: str) -> list[Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"this vocabulary is not YAML ({' '.join(str(error).split())})") from None
    names = content.get("names") if isinstance(content, dict) else content
    if isinstance(names, dict) and all(isinstance(number, int) for number in names):
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, list):
        raise InputError("a YAML vocabulary has names: a list, or a name per number")
    return names


def _text_classes(text: str) -> list[tuple[str, ...]]:
    lines = {number: line for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    numbered = all(_NUMBERED.match(line) for line in lines.values())
    found: dict[int, list[str]] = {}
    for number, line in lines.items():
        content = _hide_quoted(_NUMBERED.sub("", line, count=1) if numbered else line, f"line {number}")
        if ";" in content:
            raise InputError(f"line {number}: put one class per line, and separate its synonyms by commas")
        _refuse_dots(content)
        names = _synonyms(content, ",")
        if numbered and "invalid_class_id" in names:
            continue
        found[number] = list(dict.fromkeys(names)) if numbered else names
    if len(found) == 1 and len(names := next(iter(found.values()))) > 1:
        logger.warning("the vocabulary's only line is one class with %d synonyms: put one class per line", len(names))
    classes = check_vocabulary(list(found.values()), list(found))
    named = zip(class_names(classes), classes, strict=True)
    return [(name, *(synonym for synonym in synonyms if synonym != name)) for name, synonyms in named]


def _hide_quoted(text: str, where: str) -> str:
    """Remove quotes, hide the separators between them, and replace the separators of Chinese by ASCII ones."""
    text = _QUOTED.sub(lambda match: match[1].translate(_HIDE), text).translate(_ASCII)
    if any(part.lstrip().startswith('"') for part in re.split("[,;/\n]", text)):
        raise InputError(f"{where}: a quotation mark is not closed: {textwrap.shorten(text, 80)}")
    return text


def _split(text: str, separators: str) -> list[str]:
    """Split at any of the separators; a comma or semicolon at the end does not count."""
    return re.split(f"[{separators}]", text.strip().rstrip(separators.replace("/", "") + " "))


def _synonyms(text: str, separators: str) -> list[str]:
    return [" ".join(name.split()).translate(_SHOW) for name in _split(text, separators)]


def _refuse_dots(text: str, alone: bool = False) -> None:
    """Refuse the syntax of Grounding DINO; `alone` if the text has all classes."""
    dot = r"\.(\s|$)" if alone and not re.search("[,;]", text) else r"\s\.(\s|$)"
    if re.search(dot, text.strip()):
        names = [name.strip().translate(_SHOW) for name in text.split(".") if name.strip()]
        fix = textwrap.shorten(", ".join(names), 80, placeholder=" ...")
        raise InputError(f'dots do not separate classes: write "{fix}", or put a name with a dot into quotes')
