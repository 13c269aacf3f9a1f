"""Nouns in captions: longest names, plurals, phrases, and the shipped vocabulary."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.distillation.nouns import NounFinder, find_nouns, object_nouns, phrases, plurals
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import label_set


def names(vocabulary, caption):
    finder = NounFinder(vocabulary)
    return [finder.names[number] for number in finder(caption)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two hot dogs, and a dog.", ["hot dog", "dog"]),
        ("A hot, dog-tired man's T-shirt", ["dog", "man", "t-shirt"]),
        ("HOT DOG hot dog", ["hot dog"]),
        ("three men and women with knives on the benches", ["man", "woman", "knife", "bench"]),
        ("a glass next to glasses", ["glass", "glasses"]),
        ("People feed geese; a child\u2019s mice and puppies", ["person", "goose", "child", "mouse", "puppy"]),
        ("the hotdogs of a doghouse", []),
        ("", []),
        ("dog hot dog", ["dog", "hot dog"]),
    ],
)
def test_the_longest_name_counts_in_singular_or_plural(caption, expected):
    vocabulary = ["dog", "hot dog", "man", "woman", "person", "T_shirt", "knife", "bench", "glass", "glasses"]
    vocabulary += ["goose", "child", "mouse", "puppy"]
    assert [name.replace("T_", "t-") for name in names(vocabulary, caption)] == expected


def test_synonyms_count_as_their_class():
    assert names([["couch", "sofa"], "chair"], "a sofa, two chairs and couches") == ["couch", "chair"]


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cat", "cats"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches"), ("brush", "brushes"),
        ("puppy", "puppies"), ("toy", "toys"), ("knife", "knives"), ("shelf", "shelves"), ("giraffe", "giraffes"),
        ("person", "people"), ("fireman", "firemen"), ("child", "children"), ("tooth", "teeth"), ("potato", "potatoes"),
    ],
)  # fmt: skip
def test_plurals(noun, plural):
    assert plural in plurals(noun)


word = st.sampled_from(["red", "star", "hot", "dog", "cat", "bus", "stop", "sign"])
name = st.lists(word, min_size=1, max_size=3).map(" ".join)


@given(st.lists(name, min_size=1, max_size=8, unique=True), st.lists(word, max_size=12))
def test_finding_is_a_greedy_search_for_the_longest_name(vocabulary, caption):
    expected, rest = [], caption
    while rest:
        fits = [v for v in vocabulary if rest[: len(v.split())] == v.split()]
        longest = max(fits, key=len, default=None)
        if longest and longest not in expected:
            expected.append(longest)
        rest = rest[len(longest.split()) if longest else 1 :]
    assert names(vocabulary, " ".join(caption)) == expected


def test_nouns_of_images_are_numbered_by_what_occurs():
    captions = {7: ["a cat", "cats and a dog"], 3: ["nothing to see"], 5: ["a dog on a sofa"]}
    found = find_nouns(captions, ["zebra", "dog", "sofa", "cat"])
    assert found.names == ["dog", "sofa", "cat"]
    assert found.of_image == {7: [2, 0], 3: [], 5: [0, 1]}
    rare = find_nouns(captions, ["zebra", "dog", "sofa", "cat"], min_images=2)
    assert (rare.names, rare.of_image) == (["dog"], {7: [0], 3: [], 5: [0]})


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (["zebra"], {}, r"none of the captions of 1 images names a noun of the vocabulary \(1 names\)"),
        (["cat"], {"min_images": 2}, "that 2 images share"),
        ([], {}, "at least one class name"),
        (["cat", "?!"], {}, r"'\?!' has no letter"),
    ],
)
def test_what_cannot_be_found_is_said(vocabulary, options, message):
    with pytest.raises(InputError, match=message):
        find_nouns({1: ["a cat"]}, vocabulary, **options)


def test_phrases_are_what_follows_an_article():
    captions = ["a red star, a tile floor, two blue hearts", "A man riding a big brown horse on the beach"]
    assert phrases(captions) == ["red star", "tile floor", "blue hearts", "man", "big brown horse", "beach"]
    assert phrases(["a red star", "some red stars"]) == ["red star"]
    assert phrases(["the tall building is an old painted very large red brick building"]) == ["tall building", "old"]
    assert phrases(["nothing here"]) == []


def test_the_miniatures_captions_name_its_classes():
    from clipself_d2.miniature import CLASSES

    captions = {i: [f"a {CLASSES[i - 1]}, a {CLASSES[i]}"] for i in range(len(CLASSES))}
    found = find_nouns(captions, phrases(text for texts in captions.values() for text in texts))
    assert sorted(found.names) == sorted(CLASSES)
    for i, numbers in found.of_image.items():
        assert [found.names[n] for n in numbers] == [CLASSES[i - 1], CLASSES[i]]


def test_the_shipped_nouns_are_plain_distinct_and_hold_the_data_sets():
    nouns = object_nouns()
    assert 3000 < len(nouns) == len(set(nouns)) < 5000
    assert all(
        re.fullmatch(r"[^\W_].*[^\W_]|[^\W_]", noun) and noun == noun.lower() and "(" not in noun for noun in nouns
    )
    assert {"hot dog", "person", "police officer", "wii remote"} <= set(nouns)
    assert not {"hold", "saw", "can", "photo"} & set(nouns)
    coco = {synonyms[0].lower() for synonyms in label_set("coco_panoptic")[:80]}
    assert coco <= set(nouns)
    NounFinder(nouns)


def test_the_shipped_nouns_have_no_plural_beside_its_singular():
    names = set(object_nouns())
    for name in names:
        words, space, last = name.rpartition(" ")
        assert not {words + space + form for form in plurals(last)} & (names - {name, "glasses"})
    finder = NounFinder(sorted(names))
    texts = ("a glove", "two gloves", "glasses", "a glass", "jeans")
    found = [[finder.names[k] for k in finder(text)] for text in texts]
    assert found == [["glove"], ["glove"], ["glasses"], ["glass"], ["jeans"]]


def test_accents_do_not_matter():
    finder = NounFinder(["cafe", "piñata"])
    assert [finder(text) for text in ("Un café", "un cafe\u0301", "a pinata", "two piñatas")] == [[0], [0], [1], [1]]


def test_real_captions_have_nouns(assets):
    content = json.loads((assets / "data/coco/annotations/captions_val2017.json").read_text())
    captions: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    found = find_nouns(captions, object_nouns())
    counts = [len(numbers) for numbers in found.of_image.values()]
    assert min(counts) > 0
    assert 5 < sum(counts) / len(counts) < 12
