"""Classes asked for by their synonyms."""

import pytest
import torch

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import LABEL_SETS, TextClassifier, check_vocabulary, label_set
from clipself_d2.vocabulary.synonyms import by_synonyms
from tests.clip.conftest import built, configs, towers  # noqa: F401


def test_other_names_replace_the_first(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("sofa, couch, settee\ncat\nbat, flying mouse\nstick, bat\n")
    classes = [("sofa",), ("cat",), ("stick",), ("unknown",), ("bat",)]
    # the other name of stick is another class's
    expected = [("couch", "settee"), ("cat",), ("stick",), ("unknown",), ("flying mouse",)]
    assert by_synonyms(classes, str(file)) == expected


@pytest.mark.parametrize("name", LABEL_SETS)
def test_label_sets_give_distinct_classes(name):
    classes = [(names[0],) for names in label_set(name)]
    if name.startswith("pascal") or len(set(classes)) < len(classes):
        return
    replaced = by_synonyms(classes, name)
    assert len(check_vocabulary(replaced)) == len(classes)
    for old, new, names in zip(classes, replaced, label_set(name), strict=True):
        assert new == old or set(new) <= set(names[1:])


def test_coco_has_synonyms_of_a_third_of_its_things():
    things = [(names[0],) for names in label_set("coco_panoptic")[:80]]
    changed = dict(zip(things, by_synonyms(things, "coco_panoptic"), strict=True))
    assert changed[("couch",)] == ("sofa", "lounge") and changed[("bicycle",)] == ("bike",)
    assert sum(new != old for old, new in changed.items()) > 80 / 4


def test_a_list_without_synonyms_is_refused(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"classes\.txt: none of the 1 classes has a synonym there"):
        by_synonyms([("cat",)], str(file))


def test_the_classifier_embeds_the_synonyms(towers, tmp_path):  # noqa: F811
    text = towers("tiny-vit")[1]
    asked = TextClassifier(text, "photo", ask_synonyms_of="coco_panoptic", cache_dir=tmp_path)
    plain = TextClassifier(text, "photo", cache_dir=tmp_path)
    [others] = by_synonyms([("tv",)], "coco_panoptic")
    assert others != ("tv",)
    torch.testing.assert_close(asked(["tv"]), plain([others]))
    with pytest.raises(InputError, match=r"ask_synonyms_of='coco_panoptic' needs text\.synonyms=mean"):
        TextClassifier(text, synonyms="max", ask_synonyms_of="coco_panoptic")
