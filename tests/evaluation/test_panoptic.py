import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator, inference_on_dataset
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from clipself_d2.data import PanopticMapper, build_test_loader, get_dataset, register_panoptic, register_semantic
from clipself_d2.data.builtin import register_builtin
from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.evaluation.panoptic import class_groups
from clipself_d2.miniature import dataset
from clipself_d2.miniature.registration import register_ov_shapes

SYNONYMS = [["grass", "lawn"], ["cat"], ["dog"], ["sky"], ["cup"]]
CATEGORIES = [{"id": 10 * i + 3, "isthing": int(i in (1, 2, 4)), "name": s[0]} for i, s in enumerate(SYNONYMS)]
NOVEL = ["dog", "sky"]
HEIGHT, WIDTH, IMAGES = 40, 50, 6


@pytest.fixture(autouse=True)
def catalog(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def random_segments(rng):
    """Ids and segments of a random scene: bands of stuff, boxes of things in front, some of it void."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    drawn = [(0, slice(0, 20), slice(0, WIDTH)), (3, slice(20, 35), slice(0, WIDTH))]
    for _ in range(rng.integers(0, 5)):
        y, x = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 12)
        drawn.append((int(rng.choice([1, 2])), slice(y, y + rng.integers(5, 13)), slice(x, x + rng.integers(5, 13))))
    for number, (_, rows, columns) in enumerate(drawn, 1):
        ids[rows, columns] = 257 * number
    segments = [
        {"id": 257 * n, "category": k, "area": int((ids == 257 * n).sum())}
        for n, (k, *_) in enumerate(drawn, 1)
        if (ids == 257 * n).any()
    ]
    return ids, segments


@pytest.fixture
def data_set(tmp_path):
    """A data set of random scenes on disk, in COCO's formats; class "cup" never occurs."""
    for folder in ("photos", "pngs"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    images, panoptic, instances = [], [], []
    for i in range(IMAGES):
        ids, segments = random_segments(rng)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"photos/{i}.jpg")
        Image.fromarray(id2rgb(ids)).save(tmp_path / f"pngs/{i}.png")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        infos = []
        for s in segments:
            rle = coco_mask.encode(np.asfortranarray(ids == s["id"]).astype(np.uint8))
            category = CATEGORIES[s["category"]]
            common = {
                "category_id": category["id"],
                "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                "area": s["area"],
                "iscrowd": 0,
            }
            infos.append({"id": s["id"], **common})
            if category["isthing"]:
                rle["counts"] = rle["counts"].decode()
                instances.append({"id": len(instances) + 1, "image_id": i, "segmentation": rle, **common})
        panoptic.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
    for name, annotations in (("panoptic", panoptic), ("instances", instances)):
        things = [c for c in CATEGORIES if c["isthing"] or name == "panoptic"]
        content = {"images": images, "annotations": annotations, "categories": things}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    register_panoptic(
        "scenes",
        image_root=tmp_path / "photos",
        panoptic_json=tmp_path / "panoptic.json",
        panoptic_root=tmp_path / "pngs",
        instances_json=tmp_path / "instances.json",
        categories=CATEGORIES,
        synonyms=SYNONYMS,
        novel_classes=NOVEL,
    )
    return "scenes"


def samples(name):
    return [PanopticMapper()(record) for record in get_dataset(name)]


def outputs_of(sample, num_classes, classes=None, masks=None, scores=None):
    """Detectron2's outputs for masks that do not overlap."""
    masks = sample["masks"] if masks is None else masks
    classes = sample["classes"] if classes is None else classes
    isthing = sample["isthing"]
    ids = (masks * torch.arange(1, len(masks) + 1)[:, None, None]).amax(dim=0, keepdim=False)
    segments = [
        {"id": i + 1, "category_id": int(k), "isthing": bool(t)}
        for i, (k, t) in enumerate(zip(classes, isthing, strict=True))
        if (ids == i + 1).any()
    ]
    things = isthing & ~sample["iscrowd"]
    instances = Instances(masks.shape[1:])
    instances.pred_masks = masks[things]
    instances.pred_classes = classes[things]
    instances.scores = torch.ones(int(things.sum())) if scores is None else scores[things]
    sem_seg = torch.zeros(num_classes, *masks.shape[1:], dtype=torch.uint8)
    for k, mask in zip(classes, masks, strict=True):
        sem_seg[k] += mask
    return {"panoptic_seg": (ids, segments), "instances": instances, "sem_seg": sem_seg}


class Oracle(nn.Module):
    """Answers with the ground truth."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, inputs):
        return [outputs_of(sample, self.num_classes) for sample in inputs]


def all_100(results, tasks=("panoptic", "segm", "sem_seg")):
    assert set(results) == set(tasks)
    for metrics in results.values():
        assert metrics
        for name, value in metrics.items():
            assert type(value) is float
            assert value == pytest.approx(100), name


def noisy(sample, generator):
    """A prediction that is wrong in places: shifted masks, exchanged classes, a lost segment."""
    shift = int(torch.randint(0, 6, (), generator=generator))
    masks = sample["masks"].roll(shift, dims=2)
    classes = sample["classes"].clone()
    things = sample["isthing"].nonzero()[:, 0]
    if len(things):
        classes[things[0]] = 4 if shift == 1 else 3 - classes[things[0]]  # dog for cat, or a cup
    keep = torch.rand(len(masks), generator=generator) < 0.9
    part = {key: sample[key][keep] for key in ("isthing", "iscrowd")}
    scores = torch.rand(len(masks), generator=generator)[keep]
    return outputs_of({**sample, **part}, len(SYNONYMS), classes[keep], masks[keep], scores)


@pytest.fixture
def predictions(data_set):
    generator = torch.Generator().manual_seed(0)
    inputs = samples(data_set)
    return inputs, [noisy(sample, generator) for sample in inputs]


def evaluate(name, inputs, outputs, **kwargs):
    evaluator = OpenVocabularyPanopticEvaluator(name, **kwargs)
    for k in range(0, len(inputs), 2):
        evaluator.process(inputs[k : k + 2], outputs[k : k + 2])
    return evaluator.evaluate()


def pq_by_loop(inputs, outputs, classes):
    """Panoptic quality by its definition, void taken out of unions (Kirillov et al. 2019)."""
    per_class = {}
    for k in classes:
        ious, positives, negatives = [], 0, 0
        for sample, output in zip(inputs, outputs, strict=True):
            ids, segments = output["panoptic_seg"]
            void = ~sample["masks"].any(dim=0)
            found = [ids == s["id"] for s in segments if s["category_id"] == k]
            wanted = [m for m, c in zip(sample["masks"], sample["classes"].tolist(), strict=True) if c == k]
            matches = []
            for f in found:
                matched = [iou for w in wanted if (iou := float((f & w).sum() / ((f & ~void) | w).sum())) > 0.5]
                matches += matched
                positives += not matched and float((f & void).sum() / f.sum()) <= 0.5
            negatives += len(wanted) - len(matches)
            ious += matches
        if ious or positives or negatives:
            per_class[k] = 100 * sum(ious) / (len(ious) + positives / 2 + negatives / 2)
    return per_class


def test_ground_truth_is_perfect(data_set):
    loader = build_test_loader(data_set, PanopticMapper(), num_workers=0)
    results = inference_on_dataset(Oracle(5), loader, OpenVocabularyPanopticEvaluator(data_set))
    all_100(results)
    suffixes = {"", "_th", "_st", "_seen", "_novel", "_th_seen", "_th_novel", "_st_seen", "_st_novel"}
    assert {f"PQ{s}" for s in suffixes} < set(results["panoptic"])
    assert {"AP", "AP_seen", "AP_novel", "AP50", "AP75"} < set(results["segm"])
    assert not any("_th" in name for name in results["segm"])
    assert {"mIoU", "mIoU_seen", "mIoU_novel", "mACC", "fwIoU", "pACC"} < set(results["sem_seg"])


def test_panoptic_equals_the_definition_and_detectron2(predictions, tmp_path):
    inputs, outputs = predictions
    results = evaluate("scenes", inputs, outputs)["panoptic"]
    assert 0 < results["PQ"] < 90
    quality = pq_by_loop(inputs, outputs, range(5))
    for suffix, classes in [
        ("", [0, 1, 2, 3, 4]),
        ("_th", [1, 2, 4]),
        ("_st", [0, 3]),
        ("_seen", [0, 1, 4]),
        ("_novel", [2, 3]),
        ("_th_seen", [1, 4]),
        ("_th_novel", [2]),
    ]:
        assert results[f"PQ{suffix}"] == pytest.approx(np.mean([quality[k] for k in classes if k in quality]))
    reference = COCOPanopticEvaluator("scenes", str(tmp_path / "reference"))
    reference.reset()
    reference.process(
        inputs,
        [{"panoptic_seg": (i, [dict(s) for s in segments])} for i, segments in (o["panoptic_seg"] for o in outputs)],
    )
    expected = reference.evaluate()["panoptic_seg"]
    assert {name: results[name] for name in expected} == pytest.approx(expected)


def test_instances_equal_cocoeval(predictions, data_set):
    inputs, outputs = predictions
    results = evaluate(data_set, inputs, outputs)["segm"]
    truth = COCO(MetadataCatalog.get(data_set).json_file)
    found = []
    for sample, output in zip(inputs, outputs, strict=True):
        instances = output["instances"]
        for mask, k, score in zip(instances.pred_masks, instances.pred_classes, instances.scores, strict=True):
            if k not in (0, 3):
                rle = coco_mask.encode(np.asfortranarray(mask.numpy()).astype(np.uint8))
                found.append(
                    {
                        "image_id": sample["image_id"],
                        "category_id": CATEGORIES[k]["id"],
                        "segmentation": rle,
                        "score": float(score),
                    }
                )
    for suffix, classes in [("", [1, 2, 4]), ("_seen", [1, 4]), ("_novel", [2])]:
        coco_eval = COCOeval(truth, truth.loadRes([dict(f) for f in found]), "segm")
        coco_eval.params.catIds = [CATEGORIES[k]["id"] for k in classes]
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), coco_eval.stats[:6], strict=True):
            if value >= 0:
                assert results[name + suffix] == pytest.approx(100 * value)
            else:
                assert name + suffix not in results
    assert 0 < results["AP"] < 90


def test_semantics_equal_detectron2(predictions, data_set, monkeypatch, tmp_path):
    inputs, outputs = predictions
    results = evaluate(data_set, inputs, outputs)["sem_seg"]
    for sample in inputs:
        sample["sem_seg_file_name"] = str(tmp_path / f"{sample['image_id']}_semantic.png")
        Image.fromarray(sample["sem_seg"].numpy().astype(np.uint8)).save(sample["sem_seg_file_name"])
    DatasetCatalog.register("semantic", lambda: inputs)
    MetadataCatalog.get("semantic").set(stuff_classes=[s[0] for s in SYNONYMS], ignore_label=255)
    monkeypatch.setattr("detectron2.evaluation.sem_seg_evaluation._CV2_IMPORTED", False)
    reference = SemSegEvaluator(
        "semantic", distributed=False, sem_seg_loading_fn=lambda f, dtype: np.array(Image.open(f)).astype(dtype)
    )
    reference.reset()
    reference.process(inputs, outputs)
    expected = reference.evaluate()["sem_seg"]
    for name in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert results[name] == pytest.approx(expected[name])
    for suffix, classes in [("_seen", [0, 1]), ("_novel", [2, 3]), ("_th", [1, 2]), ("_st_novel", [3])]:  # no cup
        assert results[f"mIoU{suffix}"] == pytest.approx(np.mean([expected[f"IoU-{SYNONYMS[k][0]}"] for k in classes]))
    assert 0 < results["mIoU"] < 95


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
    answer = {"instances": outputs_of(sample, 5)["instances"]}
    for change, say in [
        ({"images": content["images"][1:], "annotations": []}, "image 0 and all others"),
        ({"categories": [*content["categories"], {"id": 77, "name": "new"}]}, "category 77"),
    ]:
        json_file.write_text(json.dumps({**content, **change}))
        evaluator = OpenVocabularyPanopticEvaluator(data_set)
        evaluator.process([sample], [answer])
        with pytest.raises(InputError, match=say):
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


def test_ov_shapes_ground_truth_is_perfect(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SPLITS", {"train": 1, "val": 8})
    register_ov_shapes(tmp_path / "datasets")
    name = "ov_shapes_val_panoptic"
    loader = build_test_loader(name, PanopticMapper(), num_workers=0)
    results = inference_on_dataset(Oracle(104), loader, OpenVocabularyPanopticEvaluator(name))
    all_100(results)
    assert "PQ_th_novel" in results["panoptic"] and "AP_novel" in results["segm"]


def test_real_ground_truth_is_perfect(assets):
    """Segments and semantics of COCO's panoptic labels; its instances are annotated apart, so they come from there."""
    register_builtin(assets / "data")
    name = "coco_2017_val_panoptic_ov"
    truth = COCO(MetadataCatalog.get(name).json_file)
    contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    evaluator = OpenVocabularyPanopticEvaluator(name)
    records = [record for record in get_dataset(name) if record["image_id"] in truth.imgs]
    assert len(records) == 8
    for record in records[::2]:
        sample = PanopticMapper()(record)
        annotations = [a for a in truth.imgToAnns[sample["image_id"]] if not a["iscrowd"]]
        instances = Instances((sample["height"], sample["width"]))
        masks = [torch.from_numpy(truth.annToMask(a)).bool() for a in annotations]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *instances.image_size)
        instances.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in annotations], dtype=torch.long)
        instances.scores = torch.ones(len(annotations))
        evaluator.process([sample], [{**outputs_of(sample, 133), "instances": instances}])
    all_100(evaluator.evaluate())
