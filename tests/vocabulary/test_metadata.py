import pytest

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import all_classes, thing_classes


def test_a_detection_data_set():
    metadata = {"name": "toys", "thing_classes": ["ball", "kite"], "novel_classes": ["kite"]}
    assert thing_classes(metadata) == (["ball", "kite"], ["kite"])
    metadata["prompt_classes"] = ["a ball", "paper kite"]
    assert thing_classes(metadata) == (["a ball", "paper kite"], ["paper kite"])
    with pytest.raises(InputError, match="data set 'x' has no classes of things"):
        thing_classes({"name": "x"})


def test_a_panoptic_data_set():
    metadata = {
        "name": "room",
        "stuff_classes": ["door", "door-stuff", "wall"],
        "class_synonyms": [["door"], ["door", "gate"], ["wall", "brick wall"]],
        "novel_classes": ["wall"],
    }
    assert all_classes(metadata) == ([("door",), ("door-stuff", "door", "gate"), ("wall", "brick wall")], ["wall"])
    assert all_classes(metadata, synonyms=False) == ([("door",), ("door-stuff",), ("wall",)], ["wall"])
    with pytest.raises(InputError, match="data set 'x' has no stuff_classes"):
        all_classes({"name": "x"})
