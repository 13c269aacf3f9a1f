"""Find object nouns in captions, without a parser or anything to download.

Captions are matched with a vocabulary. The longest name counts ("hot dogs" are a hot dog, and no dog), in the singular
or the plural. The vocabulary is the caller's, or one of two:

- `object_nouns`: the names that the data sets of the package give to things (COCO, LVIS, Objects365, ADE20K, Pascal
  Context and their synonyms) and some hundred more that captions use (``noun_lists/added.txt``), without names that are
  mostly another word in captions (``noun_lists/left_out.txt``: "a man holds" names no hold). About 3,400 names.
  RegionCLIP parsed 4,764 out of COCO's captions and did not publish them.
- `phrases`: the words in the captions between an article and the next verb, preposition or comma, compounds and
  adjectives included. It needs no list and suits captions that enumerate ("a red star, a lawn").
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from clipself_d2.data.classes import OBJECTS365_V1, OBJECTS365_V2, VOC
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import LABEL_SETS, ClassNames, check_vocabulary, label_set

_IRREGULAR = {
    "child": "children", "foot": "feet", "goose": "geese", "mouse": "mice", "ox": "oxen",
    "person": "people", "tooth": "teeth",
}  # fmt: skip


def _split(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_ARTICLES = _split(
    "a an the his her its their this that these those",
    "one two three four five six seven eight nine ten some several many few other another both all each",
)
_BREAKS = _ARTICLES | _split(
    "about above across after against along among and are around as at away back be before behind being below",
    "beneath beside between beyond but by can down during for from front has have he in inside into is it lot",
    "near next of off on onto or out outside over past she so there they through to together toward towards",
    "under underneath up very was were while which who with within without",
)
_LONGEST_PHRASE = 3


class NounFinder:
    """Finds the names of a vocabulary in captions.

    Attributes:
        names: the first name of each class.
    """

    def __init__(self, vocabulary: ClassNames) -> None:
        """Prepare the spellings.

        Args:
            vocabulary: a class is a name, or a sequence of synonyms that count as the first of them. Case, hyphens and
                underscores do not matter. A name that is given twice belongs to the first class.

        Raises:
            InputError: for an empty vocabulary, or a name without a letter or digit.
        """
        classes = check_vocabulary(vocabulary)
        self.names = [synonyms[0] for synonyms in classes]
        self._class_of: dict[tuple[str, ...], int] = {}
        spelled = [(number, tuple(_words(name))) for number, synonyms in enumerate(classes) for name in synonyms]
        for number, words in spelled:
            if not words:
                raise InputError(f"the noun {self.names[number]!r} has no letter: remove it from the vocabulary")
            self._class_of.setdefault(words, number)
        for number, words in spelled:  # after all singulars: "glasses" are no glass, where the vocabulary has both
            for plural in plurals(words[-1]):
                self._class_of.setdefault((*words[:-1], plural), number)
        self._longest = max(len(words) for words in self._class_of)

    def __call__(self, caption: str) -> list[int]:
        """Return the classes that a caption names, each once, in the order of the text."""
        found: dict[int, None] = {}
        for clause in _clauses(caption):
            start = 0
            while start < len(clause):
                for length in range(min(self._longest, len(clause) - start), 0, -1):
                    number = self._class_of.get(tuple(clause[start : start + length]))
                    if number is not None:
                        found[number] = None
                        break
                start += length  # the match's, else 1
        return list(found)


@dataclass(frozen=True)
class ImageNouns:
    """The nouns of images.

    Attributes:
        names: the K names that occur, in the order of the vocabulary.
        of_image: the nouns of each image, numbers 0..K-1 in order of appearance; may be empty.
    """

    names: list[str]
    of_image: dict[int, list[int]]


def find_nouns(captions: Mapping[int, Sequence[str]], vocabulary: ClassNames, min_images: int = 1) -> ImageNouns:
    """Find the nouns of each image's captions.

    Args:
        captions: texts by image id, as `load_captions` returns them.
        vocabulary: see `NounFinder`.
        min_images: nouns of fewer images are left out.

    Raises:
        InputError: as `NounFinder`; if no noun is left.
    """
    finder = NounFinder(vocabulary)
    found = {image: list(dict.fromkeys(n for text in texts for n in finder(text))) for image, texts in captions.items()}
    images = Counter(number for numbers in found.values() for number in numbers)
    kept = {number: k for k, number in enumerate(sorted(n for n, count in images.items() if count >= min_images))}
    if not kept:
        raise InputError(
            f"none of the captions of {len(captions)} images names a noun of the vocabulary ({len(finder.names)} names)"
            + (f" that {min_images} images share" if min_images > 1 else "")
            + ": give a vocabulary of what they are about"
        )
    of_image = {image: [kept[n] for n in numbers if n in kept] for image, numbers in found.items()}
    return ImageNouns([finder.names[number] for number in kept], of_image)


@cache
def _object_nouns() -> tuple[str, ...]:
    sets = [synonyms for name in LABEL_SETS for synonyms in label_set(name)]
    sets += [category["synonyms"] for category in LVIS_CATEGORIES]
    sets += [[part for name in spellings for part in name.split("/")] for spellings in OBJECTS365_V1 + OBJECTS365_V2]
    names = [_plain(name) for synonyms in [*sets, *map(list, VOC), _read("added")] for name in synonyms]
    left_out = {"", *_read("left_out")}
    kept = dict.fromkeys(name for name in names if name not in left_out)
    # One data set has the singular, another the plural: "gloves" are no class beside "glove". Glasses are.
    heads = ((name, name.rsplit(" ", 1)[-1]) for name in kept)
    twice = {name.removesuffix(last) + form for name, last in heads for form in plurals(last)} - {"glasses"}
    return tuple(name for name in kept if name not in twice)


def object_nouns() -> list[str]:
    """Return the shipped vocabulary of object nouns; see the module."""
    return list(_object_nouns())


def phrases(captions: Iterable[str]) -> list[str]:
    """Make a vocabulary from captions alone: up to three last words of what follows an article or a number word.

    A phrase ends before a preposition, conjunction, pronoun or auxiliary, the next article, a word in -ing or -ed
    (except object nouns such as "building"), or a comma. A plural whose singular occurs too is left out.

    Returns:
        The phrases in order of first appearance; may be empty.
    """
    known = {name for name in _object_nouns() if name.endswith(("ing", "ed"))}
    found: dict[tuple[str, ...], None] = {}
    for caption in captions:
        for clause in _clauses(caption):
            for phrase in _phrases(clause, known):
                found[tuple(phrase[-_LONGEST_PHRASE:])] = None
    plural = {(*words[:-1], form) for words in found for form in plurals(words[-1])}
    return [" ".join(words) for words in found if words not in plural]


def plurals(noun: str) -> set[str]:
    """Return the spellings that the plural of an English noun may have; some of them are wrong, which is harmless."""
    forms = {f"{noun}s"}
    if noun.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(f"{noun}es")
    if re.search("[^aeiou]y$", noun):
        forms.add(f"{noun[:-1]}ies")
    if noun.endswith(("f", "fe")):
        forms.add(noun.removesuffix("e")[:-1] + "ves")
    if noun.endswith("man"):
        forms.add(f"{noun[:-3]}men")
    return forms | ({_IRREGULAR[noun]} if noun in _IRREGULAR else set())


def _phrases(clause: Sequence[str], nouns_in_ing_or_ed: set[str]) -> Iterator[list[str]]:
    phrase: list[str] | None = None  # None: no article yet
    for word in [*clause, "a"]:
        verbal = len(word) > 4 and word.endswith(("ing", "ed")) and word not in nouns_in_ing_or_ed
        if word not in _BREAKS and not verbal:
            if phrase is not None:
                phrase.append(word)
            continue
        if phrase:
            yield phrase
        phrase = [] if word in _ARTICLES else None


def _clauses(text: str) -> list[list[str]]:
    """Split at punctuation marks, which no name contains, into words."""
    return [_words(clause) for clause in re.split(r"[.,;:!?()\"\n]", text)]


def _words(text: str) -> list[str]:
    """Split into words in lower case, at hyphens too, without "'s" and accents."""
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", bare.lower().replace("\u2019", "'"))
    return [word.removesuffix("'s") for word in words]


def _plain(name: str) -> str:
    """Write a class name as captions do: "bow_(weapon)" is "bow"."""
    return " ".join(re.sub(r"\(.*?\)|_", " ", name).lower().split())


def _read(name: str) -> list[str]:
    return (Path(__file__).parent / "noun_lists" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
