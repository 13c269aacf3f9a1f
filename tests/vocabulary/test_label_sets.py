import itertools
import json
from pathlib import Path

import pytest
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, COCO_CATEGORIES
from hypothesis import given
from hypothesis import strategies as st

import clipself_d2.vocabulary.label_sets as module
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import LABEL_SETS, class_names, label_set, seen_classes

FOLDER = Path(module.__file__).parent / "label_sets"
ROOT = Path(__file__).parents[2]

# Labels of the 59 classes in the annotation files of Pascal Context, which count from 1, as conversions publish them.
CONTEXT_59 = """
    2 259 260 415 324 9 258 144 18 19 22 23 397 25 284 158 159 416 33 162 420 454 295 296 427 44 45 46 308 59 440 445
    31 232 65 354 424 68 326 72 458 34 207 80 355 85 347 220 349 360 98 187 104 105 366 189 368 113 115
"""


def joined(name):
    return name.replace(" ", "").replace("-", "").lower()


@pytest.mark.parametrize("name", LABEL_SETS)
def test_every_list_is_whole_and_clean(name):
    classes = label_set(name)
    assert len(classes) == LABEL_SETS[name]
    for synonyms in classes:
        assert synonyms
        assert len(set(synonyms)) == len(synonyms)
        assert all(s and s == s.strip() == " ".join(s.split()) == s.lower() for s in synonyms)
    names = class_names(classes)
    assert len(set(names)) == len(names)
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(LABEL_SETS)


def test_a_list_is_the_callers_own():
    label_set("ade20k_150")[0].append("mine")
    assert label_set("ade20k_150")[0] == ["wall"]


def test_coco_is_in_the_order_of_detectron2():
    classes = label_set("coco_panoptic")
    for category, synonyms in zip(COCO_CATEGORIES, classes, strict=True):
        if category["isthing"]:
            assert synonyms[0] == category["name"]
        else:
            words = set(category["name"].split("-")) - {"merged", "other", "stuff"}
            assert sorted("".join(words)) == sorted(joined(synonyms[0]))  # the same letters
    assert len({s for synonyms in classes for s in synonyms}) == sum(map(len, classes))  # no synonym is of two classes


def test_ade20k_150_is_in_the_order_of_detectron2():
    for known, synonyms in zip(ADE20K_SEM_SEG_CATEGORIES, label_set("ade20k_150"), strict=True):
        assert set(known.strip().split(", ")) & set(synonyms) or known.strip() in " ".join(synonyms)


def test_ade20k_150_is_the_official_file(assets):
    rows = (assets / "data/ade20k/objectInfo150.txt").read_text().splitlines()[1:]
    official = [[s.strip() for s in row.split("\t")[4].split(",")] for row in rows]
    assert label_set("ade20k_150") == official


def test_ade20k_847_landmarks():
    index = json.loads((ROOT / "datasets/ade20k_847_index.json").read_text())
    assert len(index) == len(set(index)) == 847
    names = class_names(label_set("ade20k_847"))
    # Facts of the index of ADE20K_2021_17_01 (their order: that of published evaluations).
    for name, position, name_ndx in [
        ("wall", 0, 2978),
        ("building", 1, 312),
        ("sky", 2, 2420),
        ("person", 11, 1831),
        ("traffic light", 115, 2836),
        ("adding machine", 846, 3148),
    ]:
        assert (names.index(name), index[position]) == (position, name_ndx)
    # The 100 thing classes of ADE20K's instance challenge are among them, under the index that it gives for them.
    assert {165, 3055, 350, 1831, 774, 2684, 687, 471, 401, 530, 954} <= set(index)


def test_ade20k_847_agrees_with_real_annotations(assets):
    index = json.loads((ROOT / "datasets/ade20k_847_index.json").read_text())
    classes = label_set("ade20k_847")
    checked = set()
    for path in (assets / "data/ade20k/full_2021_samples").glob("*.json"):
        for thing in json.loads(path.read_text(encoding="utf-8", errors="replace"))["annotation"]["object"]:
            if thing["name_ndx"] in index:
                assert thing["name"].split(", ") == classes[index.index(thing["name_ndx"])]
                checked.add(thing["name_ndx"])
    assert len(checked) >= 25


def test_pascal_context_59_stand_where_the_459_have_them():
    all_names = [joined(synonyms[0]) for synonyms in label_set("pascal_context_459")]
    labels = sorted(map(int, CONTEXT_59.split()))
    names = [joined(synonyms[0]) for synonyms in label_set("pascal_context_59")]
    assert [all_names[label - 1] for label in labels] == names
    assert names == sorted(names)
    assert sum(a > b for a, b in itertools.pairwise(all_names)) <= 6  # all but alphabetical


def seen_by_loop(train, test):
    result = []
    for synonyms in test:
        found = False
        for word in synonyms:
            for other in train:
                for known in other:
                    if word == known:
                        found = True
        result.append(found)
    return result


WORDS = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=6)


@given(WORDS, WORDS)
def test_seen_equals_a_loop(train, test):
    assert seen_classes(train, test) == seen_by_loop(train, test)


def test_seen_is_letter_for_letter():
    assert seen_classes([["bag"], ["tv", "television"]], [["handbag"], ["Bag"], ["set", "television"]]) == [
        False,
        False,
        True,
    ]
    assert seen_classes([], [["bag"]]) == [False]
    assert seen_classes([["bag"]], [["Bag", "sack"], ["box"]], ignore_case=True) == [True, False]


def test_seen_of_real_lists():
    coco = label_set("coco_panoptic")
    assert all(seen_classes(coco, coco))
    seen = dict(zip(class_names(label_set("ade20k_150")), seen_classes(coco, label_set("ade20k_150")), strict=True))
    assert seen["wall"] and seen["sofa"] and seen["person"] and not seen["chandelier"] and not seen["ottoman"]
    assert 40 < sum(seen.values()) < 90


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"'ade20k'.*coco_panoptic.*pascal_context_459"):
        label_set("ade20k")
