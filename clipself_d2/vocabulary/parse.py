"""Parsing a user's vocabulary: a file, or words on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.synonyms import check_vocabulary


def read_vocabulary(source: str) -> list[tuple[str, ...]]:
    """Parse classes, each a tuple of synonyms.

    Args:
        source: ``classes.txt``, one class per line, its synonyms separated by commas; ``classes.json``, a list of names
            and of lists of synonyms; or words, ``"cat, hot dog/frankfurter"``: classes separated by commas, synonyms by
            slashes.

    Raises:
        InputError: a file that cannot be read or has another format; an empty, repeated or wrongly typed class.
    """
    if not source.strip():
        raise InputError("the vocabulary is empty: give words separated by commas, or a .txt or .json file")
    path = Path(source)
    if path.suffix not in (".txt", ".json"):
        return check_vocabulary([_split(word, "/") for word in source.split(",")])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read this vocabulary ({error})") from None
    if path.suffix == ".txt":
        return check_vocabulary([_split(line, ",") for line in text.splitlines() if line.strip()])
    try:
        classes = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: this vocabulary is not JSON ({error})") from None
    if not isinstance(classes, list) or not all(isinstance(entry, str | list) for entry in classes):
        raise InputError(f"{path}: a JSON vocabulary is a list of names or of lists of synonyms")
    return check_vocabulary(classes)


def _split(text: str, separator: str) -> list[str]:
    return [name.strip() for name in text.split(separator)]
