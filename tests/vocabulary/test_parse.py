import pytest

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import read_vocabulary


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("cat", [("cat",)]),
        ("red star, blue heart / love heart ,dog", [("red star",), ("blue heart", "love heart"), ("dog",)]),
        ("st. bernard, e.g. a dog", [("st. bernard",), ("e.g. a dog",)]),
    ],
)
def test_words(source, classes):
    assert read_vocabulary(source) == classes


def test_files(tmp_path):
    (tmp_path / "a.txt").write_text("cat, kitten\n\n  AC/DC \n")
    (tmp_path / "a.json").write_text('["cat", ["dog", "hound"]]')
    assert read_vocabulary(str(tmp_path / "a.txt")) == [("cat", "kitten"), ("AC/DC",)]
    assert read_vocabulary(str(tmp_path / "a.json")) == [("cat",), ("dog", "hound")]


@pytest.mark.parametrize(
    "source", ["", " ", "cat,,dog", "cat,", "cat, cat", "cat/cat", "cat/", "absent.txt", "absent.json"]
)
def test_wrong_words_are_one_line(source):
    with pytest.raises(InputError) as caught:
        read_vocabulary(source)
    assert "\n" not in str(caught.value)
