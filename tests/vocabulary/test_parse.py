"""Vocabularies as users write them."""

# ruff: noqa: RUF001 - the commas of Chinese
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import LABEL_SETS, class_names, describe_classes, label_set, read_vocabulary
from clipself_d2.vocabulary import label_sets as label_sets_module


def refused(source) -> str:
    with pytest.raises(InputError) as caught:
        read_vocabulary(str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_text(text, encoding=encoding)
    return str(path)


# ---- words ----


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("cat", [("cat",)]),
        ("red star, blue heart / love heart ,dog", [("red star",), ("blue heart", "love heart"), ("dog",)]),
        ("st. bernard, e.g. a dog", [("st. bernard",), ("e.g. a dog",)]),
        ("cat, dog,", [("cat",), ("dog",)]),
        ("cat\ndog\n", [("cat",), ("dog",)]),
        ("a, b; c, d", [("a", "b"), ("c", "d")]),
        (
            "red circle, crimson disc; blue square/navy box;",
            [("red circle", "crimson disc"), ("blue square", "navy box")],
        ),
        ("猫，狗、鸟", [("猫",), ("狗",), ("鸟",)]),
        ("猫；狗", [("猫",), ("狗",)]),
        ('"tin, of food", "AC/DC" / band, “st. bernard”', [("tin, of food",), ("AC/DC", "band"), ("st. bernard",)]),
        ('"st. bernard"', [("st. bernard",)]),
        ('19" rack', [('19" rack',)]),
        ("farmer's market, 3:2 pulldown", [("farmer's market",), ("3:2 pulldown",)]),
        ("кошка, 🐈", [("кошка",), ("🐈",)]),
    ],
)
def test_words(source, classes):
    assert read_vocabulary(source) == classes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("cat,,dog", "class 1"),
        ("cat, \udcff", "class 1"),
        (",", "class 0"),
        ("cat/", "class 0"),
        ("cat, cat", "class 'cat' is given twice (numbers 0, 1)"),
        ("cat/cat", "a synonym is given twice"),
        ("a, b, a, c, b, a", "'a' is given twice (numbers 0, 2, 5), 'b' is given twice (numbers 1, 4)"),
        ("absent.txt", "no such file"),
        ("~/absent.names", "no such file"),
        ("my folder/absent classes.json", "no such file"),
        ("/absent/classes", "no such file"),
        ("./classes", "no such file"),
        ("red circle . blue square .", 'write "red circle, blue square"'),
        ("cat. remote control.", 'write "cat, remote control"'),
        ("cat . dog, bird", "dots do not separate"),
        ('"cat, dog', "a quotation mark is not closed"),
    ],
)
def test_wrong_words_are_one_line(source, message):
    assert message in refused(source)


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_any_words_are_classes_or_one_line(source):
    try:
        classes = read_vocabulary(source)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert classes and all(name.strip() for synonyms in classes for name in synonyms)


NAME = st.text(st.sampled_from("ab ,;/.，、:"), min_size=1).filter(lambda s: s.strip() and s == " ".join(s.split()))


@settings(max_examples=30)
@given(st.lists(NAME, min_size=1, max_size=4, unique=True))
def test_quoted_names_are_kept_as_they_are(names):
    assert read_vocabulary(", ".join(f'"{name}"' for name in names)) == [(name,) for name in names]


# ---- files ----


@pytest.mark.parametrize("name", ["a.txt", "a.names", "a", "a.JSON5", "cat, dog"])
def test_a_file_of_any_name_has_a_class_per_line(tmp_path, name):
    path = write(tmp_path, name, 'cat, kitten,\n\n  AC/DC \n"food, in a tin", tin\n', "utf-8-sig")
    assert read_vocabulary(path) == [("cat", "kitten"), ("AC/DC",), ("food, in a tin", "tin")]


@pytest.mark.parametrize("name", ["a.json", "a", "a.txt"])
def test_json(tmp_path, name):
    path = write(tmp_path, name, '["cat", ["dog", "hound"], "a, b/c"]', "utf-8-sig")
    assert read_vocabulary(path) == [("cat",), ("dog", "hound"), ("a, b/c",)]


@pytest.mark.parametrize(
    "text", ["names: [cat, hot dog]\nnc: 2\n", "path: x\nnames:\n  1: hot dog\n  0: cat\n", "- cat\n- hot dog\n"]
)
def test_yaml(tmp_path, text):
    assert read_vocabulary(write(tmp_path, "data.yaml", text)) == [("cat",), ("hot dog",)]


def test_label_files_of_odise_and_fc_clip(tmp_path):
    text = "0:invalid_class_id\n1:bag,bags,bag\n 12 : wall , walls\n13:invalid_class_id\n"
    assert read_vocabulary(write(tmp_path, "a.txt", text)) == [("bag", "bags"), ("wall", "walls")]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "classes.txt", "cat\n")
    assert read_vocabulary("~/classes.txt") == [("cat",)]


@pytest.mark.parametrize("name", LABEL_SETS)
def test_label_sets_are_vocabularies_with_a_name_per_class(name):
    path = label_sets_module.__file__.replace("label_sets.py", f"label_sets/{name}.txt")
    classes = read_vocabulary(path)
    assert [synonyms[0] for synonyms in classes] == class_names(label_set(name))
    assert all(set(own) <= set(read) for own, read in zip(label_set(name), classes, strict=True))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.txt",
            "red\ncrane\nsun\n\ncrane\nsun\nblue",
            "'crane' is given twice (lines 2, 5), 'sun' is given twice (lines 3, 6)",
        ),
        ("a.txt", "cat\n, dog", "line 2"),
        ("a.txt", "cat; dog", "line 1: put one class per line"),
        ("a.txt", "cat\nred circle . blue square .", "dots do not separate"),
        ("a.txt", 'cat\n"dog, hound', "line 2: a quotation mark is not closed"),
        ("a.txt", "0:invalid_class_id", "at least one class"),
        ("a.txt", "\n\n", "at least one class"),
        ("a.json", "{}", "list of names"),
        ("a.json", "[1]", "class 0 of the vocabulary is 1"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", "cat", "not JSON"),
        ("a.yaml", "names: 3", "has names"),
        ("a.yaml", "names: {a: b}", "has names"),
        ("a.yaml", "names: [yes]", "class 0 of the vocabulary is True"),
        ("a.yaml", "names: [", "not YAML"),
        ("a.yaml", "!!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    assert message in refused(path) and refused(path).startswith(path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY\xff")
    assert "save it as UTF-8" in refused(tmp_path / "rows.npy")
    assert "save it as UTF-8" in refused(write(tmp_path, "a.txt", "cat", "utf-16"))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.txt", "cat")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert refused(path).endswith("cannot be read (Permission denied)")


def test_a_single_line_of_many_names_is_warned_of(tmp_path, caplog):
    assert len(read_vocabulary(write(tmp_path, "a.txt", "cat, dog, bird"))) == 1
    assert "one class with 3 synonyms: put one class per line" in caplog.text


# ---- what was read ----


def test_what_was_read_is_told_in_a_line():
    classes = [("cat",), ("hot dog", "frankfurter"), ("tin, of food",)]
    assert describe_classes(classes) == '3 classes: cat, hot dog/frankfurter, "tin, of food"'
    assert describe_classes([("cat",)]) == "1 class: cat"
    assert describe_classes([(str(n),) for n in range(1203)]).endswith("28, 29 and 1,173 more")
    assert read_vocabulary(describe_classes(classes).split(": ", 1)[1]) == classes


def test_many_repetitions_are_counted(tmp_path):
    names = json.dumps([str(n % 500) for n in range(1000)])
    assert refused(write(tmp_path, "a.json", names)).endswith("and 470 more: keep one of each")


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING)
