"""Result files of other projects become saved masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2.cli.save_masks import main
from clipself_d2.data.walk import Walk
from clipself_d2.panoptic import SavedMasks, coco_results
from clipself_d2.panoptic.coco_results import ResultImages, save_panoptic_results
from clipself_d2.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
CATEGORIES = [{"id": 7, "name": "sky"}, {"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]
WORDS = Vocabulary(["cat", "dog", "sky"], torch.eye(3))


@pytest.fixture
def ids():
    ids = np.zeros((12, 20), np.uint32)
    ids[:5], ids[5:9, :8], ids[6:, 10:] = 70_000, 12, 300
    return ids


@pytest.fixture
def annotations(tmp_path):
    images = [
        {"id": 5, "file_name": "five.jpg", "height": 12, "width": 20},
        {"id": 6, "file_name": "six.jpg", "height": 10, "width": 10},
    ]
    return write(tmp_path / "annotations.json", {"images": images, "categories": CATEGORIES})


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def panoptic(tmp_path, ids):
    (tmp_path / "png").mkdir()
    Image.fromarray(id2rgb(ids)).save(tmp_path / "png/five.png")
    segments = [{"id": 70_000, "category_id": 7}, {"id": 12, "category_id": 1}, {"id": 300, "category_id": 3}]
    return {"annotations": [{"image_id": 5, "file_name": "five.png", "segments_info": segments}]}


@pytest.fixture
def instances(ids):
    def entry(segment, category, score, as_list=False):
        mask = np.asfortranarray(ids == segment, dtype=np.uint8)
        rle = coco_mask.encode(mask)
        rle["counts"] = rle["counts"].decode()
        if as_list:
            changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0))
            rle["counts"] = np.diff([0, *changes.tolist(), mask.size]).tolist()
        return {"image_id": 5, "category_id": category, "score": score, "segmentation": rle}

    return [entry(12, 1, 0.75), entry(300, 3, 0.5, as_list=True)]


def read(folder, name, height, width):
    sample = {"file_name": name, "image": torch.zeros(3, height, width)}
    return SavedMasks(folder)([sample], WORDS)[0]


def test_a_panoptic_result(tmp_path, annotations, panoptic, ids, capsys):
    result = write(tmp_path / "result.json", panoptic)
    arguments = ["--annotations", annotations, "--panoptic", result, "--png-root", tmp_path / "png"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "out"), "--confidence", "0.8"]) == 0
    assert "masks of 1 images, and empty files for 1 without" in capsys.readouterr().out
    found = read(tmp_path / "out", "five.jpg", 12, 20)
    assert torch.equal(
        found.masks > 0, torch.from_numpy(ids.astype(int)) == torch.tensor([[[70_000]], [[12]], [[300]]])
    )
    wanted = torch.tensor([[0.1, 0.1, 0.8, 0], [0.8, 0.1, 0.1, 0], [0.1, 0.8, 0.1, 0]])
    torch.testing.assert_close(found.log_scores.exp(), wanted)
    assert found.mask_iou is None
    assert len(read(tmp_path / "out", "six.jpg", 10, 10)) == 0


def test_the_scores_of_a_panoptic_result_are_the_mask_iou(tmp_path, annotations, panoptic):
    for segment, score in zip(panoptic["annotations"][0]["segments_info"], (0.5, 1.0, 0.25), strict=True):
        segment["score"] = score
    result = write(tmp_path / "result.json", panoptic)
    arguments = ["--annotations", annotations, "--panoptic", result, "--png-root", tmp_path / "png"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out", "five.jpg", 12, 20).mask_iou.tolist() == [0.5, 1.0, 0.25]


def test_an_instance_result(tmp_path, annotations, instances, ids):
    result = write(tmp_path / "result.json", instances)
    arguments = ["--annotations", annotations, "--instances", result, "--output", tmp_path / "out"]
    assert main([*map(str, arguments)]) == 0
    found = read(tmp_path / "out", "five.jpg", 12, 20)
    assert torch.equal(found.masks > 0, torch.from_numpy(ids.astype(int)) == torch.tensor([[[12]], [[300]]]))
    assert found.log_scores.argmax(1).tolist() == [0, 1]
    assert found.mask_iou.tolist() == [0.75, 0.5]


def saved(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ranks_share_the_images_and_a_stopped_run_goes_on(tmp_path, annotations, panoptic, monkeypatch):
    """One rank after the other; the first is stopped before its image is noted, and again after it."""
    result, known = write(tmp_path / "result.json", panoptic), ResultImages.of_annotations(annotations)

    def save(folder):
        save_panoptic_results(result, tmp_path / "png", tmp_path / folder, known)

    save("alone")
    assert sorted(saved(tmp_path / "alone")) == ["five.safetensors", "six.safetensors"]
    assert not (tmp_path / "alone.parts").exists()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with monkeypatch.context() as stopped:
        stopped.setattr(
            coco_results, "save_predictions", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            save("shared")
    monkeypatch.setattr(Walk, "remove", lambda self: None)  # the other rank is not done yet
    save("shared")
    assert sorted(saved(tmp_path / "shared")) == ["five.safetensors"]
    monkeypatch.undo()
    save("shared")
    assert saved(tmp_path / "shared") == saved(tmp_path / "alone")
    assert not (tmp_path / "shared.parts").exists()


def test_a_png_that_cannot_be_read_ends_the_command(tmp_path, annotations, panoptic, capsys):
    (tmp_path / "png/five.png").write_bytes(b"no image")
    result = write(tmp_path / "result.json", panoptic)
    arguments = ["--annotations", annotations, "--panoptic", result, "--png-root", tmp_path / "png"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 2
    assert "five.png" in capsys.readouterr().err


def wrong_image(result):
    result["annotations"][0]["image_id"] = 9


def wrong_category(result):
    result["annotations"][0]["segments_info"][0]["category_id"] = 2


def wrong_segment(result):
    result["annotations"][0]["segments_info"][0]["id"] = 8


def wrong_size(result):
    result["annotations"][0]["image_id"] = 6


def given_twice(result):
    result["annotations"].append(result["annotations"][0])


def no_annotations(result):
    del result["annotations"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_image, "image 9 is not in the data set"),
        (wrong_category, "category 2"),
        (wrong_segment, "lacks segment 8"),
        (wrong_size, "masks of 20 x 12 pixels, the image is 10 x 10"),
        (given_twice, "is given twice"),
        (no_annotations, "has no 'annotations'"),
    ],
)
def test_a_panoptic_result_that_does_not_fit(tmp_path, annotations, panoptic, capsys, change, message):
    change(panoptic)
    result = write(tmp_path / "result.json", panoptic)
    arguments = ["--annotations", annotations, "--panoptic", result, "--png-root", tmp_path / "png"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"segmentation": [[0, 0, 1, 1, 2, 2]]}, "expected object"),
        ({"segmentation": {"size": [12, 20]}}, "has no 'counts'"),
        ({"segmentation": {"size": [12, 20], "counts": [3]}}, "counts of 3 pixels, its image 240"),
        ({"image_id": 9}, "image 9"),
        ({"category_id": 4}, "category 4"),
    ],
)
def test_an_instance_result_that_does_not_fit(tmp_path, annotations, instances, capsys, entry, message):
    result = write(tmp_path / "result.json", [{**instances[0], **entry}])
    arguments = ["--annotations", annotations, "--instances", result, "--output", tmp_path / "out"]
    assert main([*map(str, arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--panoptic", "r.json"], "--png-root"),
        (["--instances", "absent.json"], "absent.json: there is no such file"),
        (["--instances", "r.json", "--confidence", "1"], "confidence"),
    ],
)
def test_wrong_arguments(tmp_path, annotations, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.json", [])
    assert main([*arguments, "--annotations", str(annotations), "--output", "out"]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_dataset(tmp_path, capsys):
    result = write(tmp_path / "r.json", [])
    assert main(["--dataset", "nowhere", "--instances", str(result), "--output", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_annotations_that_name_no_images(tmp_path, annotations, panoptic, capsys):
    content = json.loads(annotations.read_text())
    arguments = ["--panoptic", str(write(tmp_path / "result.json", panoptic)), "--png-root", str(tmp_path / "png")]
    arguments += ["--output", str(tmp_path / "out"), "--annotations"]
    for images, message in (
        ([{**content["images"][0], "height": None}], "lacks 'file_name', 'height' or 'width'"),
        ([{**image, "file_name": f"{i}/same.jpg"} for i, image in enumerate(content["images"])], "images of this name"),
    ):
        changed = write(tmp_path / "changed.json", {**content, "images": images})
        assert main([*arguments, str(changed)]) == 2
        assert message in capsys.readouterr().err
