"""What the panoptic evaluator takes, refuses and returns."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from clipself_d2.data import register_semantic
from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.evaluation.mask_ap import MaskAPEvaluator
from clipself_d2.evaluation.panoptic import class_groups
from clipself_d2.regions import PackedMasks
from tests.evaluation.scenes import (
    HEIGHT,
    WIDTH,
    all_100,
    evaluate,
    outputs_of,
    samples,
)

pytestmark = pytest.mark.usefixtures("catalog")


def test_labels_and_packed_masks_are_evaluated_alike(predictions, data_set):
    inputs, outputs = predictions
    expected = evaluate(data_set, inputs, outputs)
    for output in outputs:
        masks = output["instances"].pred_masks
        output["instances"].pred_masks = PackedMasks(PackedMasks.pack(masks.bool()), WIDTH)
        output["labels"] = output.pop("sem_seg").argmax(dim=0).int()
    assert evaluate(data_set, inputs, outputs) == expected
    outputs[0]["labels"][0, 0] = 5
    with pytest.raises(InputError, match="class 5, data set 'scenes' has 5 classes"):
        evaluate(data_set, inputs, outputs)


def test_only_what_is_there_is_evaluated(predictions, data_set):
    inputs, outputs = predictions
    everything = evaluate(data_set, inputs, outputs)
    for field, task in [("panoptic_seg", "panoptic"), ("instances", "segm"), ("sem_seg", "sem_seg")]:
        assert evaluate(data_set, inputs, [{field: o[field]} for o in outputs]) == {task: everything[task]}
    evaluator = OpenVocabularyPanopticEvaluator(data_set)
    with pytest.raises(InputError, match=r"scenes.*no output"):
        evaluator.evaluate()
    evaluator.process(inputs, outputs)
    evaluator.reset()
    with pytest.raises(InputError, match="no output"):
        evaluator.evaluate()


def test_a_data_set_without_instances_has_no_ap_of_masks(data_set):
    MetadataCatalog.get("bare").set(stuff_classes=["sky"])
    with pytest.raises(InputError, match="'bare' has no instance annotations"):
        MaskAPEvaluator("bare")


def test_nothing_found_scores_nothing(data_set):
    inputs = samples(data_set)
    empty = Instances((HEIGHT, WIDTH))
    empty.pred_masks, empty.pred_classes = torch.zeros(0, HEIGHT, WIDTH), torch.zeros(0, dtype=torch.long)
    empty.scores = torch.zeros(0)
    nothing = {"panoptic_seg": (torch.zeros(HEIGHT, WIDTH, dtype=torch.int32), []), "instances": empty}
    results = evaluate(data_set, inputs, [nothing] * len(inputs))
    assert results["panoptic"]["PQ"] == results["panoptic"]["PQ_novel"] == results["segm"]["AP"] == 0


def test_novel_classes_are_an_argument(predictions, data_set):
    inputs, outputs = predictions
    default = evaluate(data_set, inputs, outputs)
    swapped = evaluate(data_set, inputs, outputs, novel_classes=["grass", "cat", "cup"])
    assert swapped["panoptic"]["PQ_seen"] == default["panoptic"]["PQ_novel"]
    assert swapped["segm"]["AP_novel"] == default["segm"]["AP_seen"]
    alone = evaluate(data_set, inputs, outputs, novel_classes=[])
    assert not any("seen" in name or "novel" in name for metrics in alone.values() for name in metrics)
    with pytest.raises(InputError, match="'lawn'"):
        OpenVocabularyPanopticEvaluator(data_set, novel_classes=["lawn"])


def test_groups():
    isthing, novel = np.array([1, 1, 0, 0], dtype=bool), np.array([1, 0, 0, 0], dtype=bool)
    assert {suffix: group.nonzero()[0].tolist() for suffix, group in class_groups(isthing, novel).items()} == {
        "": [0, 1, 2, 3],
        "_seen": [1, 2, 3],
        "_novel": [0],
        "_th": [0, 1],
        "_th_seen": [1],
        "_th_novel": [0],
        "_st": [2, 3],
        "_st_seen": [2, 3],
    }


def test_table_of_classes(predictions, data_set, tmp_path):
    inputs, outputs = predictions
    results = evaluate(data_set, inputs, outputs, output_dir=tmp_path / "out")
    table = json.loads((tmp_path / "out/panoptic_classes.json").read_text())
    assert list(table) == ["grass", "cat", "dog", "sky", "cup"]
    assert results["panoptic"]["PQ"] == pytest.approx(np.mean([row["PQ"] for row in table.values() if "PQ" in row]))
    assert results["segm"]["AP"] == pytest.approx(np.mean([row["AP"] for row in table.values() if "AP" in row]))
    assert results["sem_seg"]["mIoU"] == pytest.approx(np.mean([r["mIoU"] for r in table.values() if "mIoU" in r]))


def test_without_panopticapi_it_says_so(predictions, monkeypatch):
    inputs, outputs = predictions
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", None)
    with pytest.raises(InputError, match=r"panopticapi.*docs/install.md"):
        evaluate("scenes", inputs, outputs)


def test_outputs_that_do_not_fit_are_refused(data_set):
    [sample, *_] = samples(data_set)
    right = outputs_of(sample, 5)
    ids, segments = right["panoptic_seg"]
    beyond = [{**segments[0], "category_id": 5}, *segments[1:]]
    small = Instances((HEIGHT, WIDTH - 1))
    small.pred_masks, small.pred_classes = right["instances"].pred_masks[..., 1:], right["instances"].pred_classes
    small.scores = right["instances"].scores
    for output, say in [
        ({"panoptic_seg": (ids[:-1], segments)}, r"\(39, 50\), the image \(40, 50\)"),
        ({"panoptic_seg": (ids, beyond)}, "class 5, data set 'scenes' has 5"),
        ({"panoptic_seg": (ids, segments[1:])}, "its list of them differ"),
        ({"panoptic_seg": (ids, [*segments, {"id": 99, "category_id": 0}])}, "its list of them differ"),
        ({"instances": small}, r"\(40, 49\)"),
        ({"sem_seg": right["sem_seg"][:4]}, "sem_seg has 4 classes"),
        ({"sem_seg": right["sem_seg"][:, 1:]}, r"\(39, 50\)"),
    ]:
        with pytest.raises(InputError, match=say) as caught:
            evaluate(data_set, [sample], [output])
        assert "\n" not in str(caught.value)


def test_labels_of_another_data_set_are_refused(data_set, tmp_path):
    [sample, *_] = samples(data_set)
    output = {"sem_seg": torch.zeros(5, HEIGHT, WIDTH)}
    wrong = {**sample, "sem_seg": sample["sem_seg"].clone(), "sem_seg_file_name": "a/b.png"}
    wrong["sem_seg"][0, 0] = 7
    with pytest.raises(InputError, match=r"a/b.png: is labeled 7, data set 'scenes' has 5 classes"):
        OpenVocabularyPanopticEvaluator(data_set).process([wrong], [output])
    json_file = Path(MetadataCatalog.get(data_set).json_file)
    content = json.loads(json_file.read_text())
    others = [a for a in content["annotations"] if a["image_id"] != 0]
    answer = {"instances": outputs_of(sample, 5)["instances"]}
    for change, say in [
        ({"images": content["images"][1:], "annotations": others}, "image 0 and all others"),
        ({"annotations": [{k: v for k, v in others[0].items() if k != "segmentation"}]}, "1 of 1 objects have no mask"),
        ({"categories": [*content["categories"], {"id": 77, "name": "new"}]}, "category 77"),
    ]:
        json_file.write_text(json.dumps({**content, **change}))
        evaluator = OpenVocabularyPanopticEvaluator(data_set)
        with pytest.raises(InputError, match=say):
            evaluator.process([sample], [answer])
            evaluator.evaluate()
    json_file.unlink()
    with pytest.raises(InputError, match=r"instances.json: cannot be read"):
        OpenVocabularyPanopticEvaluator(data_set).process([sample], [answer])
    with pytest.raises(InputError, match="'unheard_of' is not registered"):
        OpenVocabularyPanopticEvaluator("unheard_of")


def test_a_semantic_data_set(tmp_path, caplog):
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    labels = np.random.default_rng(0).integers(0, 300, (HEIGHT, WIDTH)).astype(np.uint16)
    labels[:5] = 65535
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos/a.jpg")
    Image.fromarray(labels).save(tmp_path / "labels/a.tif")
    register_semantic(
        "many",
        image_root=tmp_path / "photos",
        label_root=tmp_path / "labels",
        synonyms=[[f"class {k}"] for k in range(300)],
        ignore_label=65535,
    )
    inputs = samples("many")
    scores = torch.nn.functional.one_hot(inputs[0]["sem_seg"].clamp(max=299), 300).permute(2, 0, 1)
    all_100(evaluate("many", inputs, [{"sem_seg": scores}]), ["sem_seg"])
    empty = 300 - len(set(labels[5:].ravel().tolist()))
    assert f"many: {empty} of 300 classes label no pixel of these images (class" in caplog.text
    assert "65535 is ignored" in caplog.text
    with pytest.raises(InputError, match="no panoptic labels"):
        evaluate("many", inputs, [outputs_of(inputs[0], 300)])


def _rank(rank, world, folder, inputs, outputs):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    evaluator = OpenVocabularyPanopticEvaluator("scenes")
    evaluator.process(inputs[rank::world], outputs[rank::world])
    (folder / f"{rank}.json").write_text(json.dumps(evaluator.evaluate()))
    torch.distributed.destroy_process_group()


def test_the_main_process_has_the_results_of_all(predictions, tmp_path):
    inputs, outputs = predictions
    alone = evaluate("scenes", inputs, outputs)
    arguments = (2, tmp_path, inputs, outputs)
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=2, start_method="fork")
    assert json.loads((tmp_path / "1.json").read_text()) == {}
    parts = json.loads((tmp_path / "0.json").read_text())
    assert set(parts) == set(alone)
    for task, metrics in parts.items():
        assert metrics == pytest.approx(alone[task])
