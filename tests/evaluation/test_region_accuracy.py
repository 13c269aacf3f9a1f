import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from torch import nn

from clipself_d2.data import PanopticRegionMapper, build_test_loader, register_panoptic_regions
from clipself_d2.data.builtin import register_builtin
from clipself_d2.errors import InputError
from clipself_d2.evaluation import RegionClassificationEvaluator, mean_class_accuracy, region_accuracy

NAMES = ["cat", "dog", "cup", "tree", "sand", "sky", "sea"]
ISTHING = [True, True, True, True, False, False, False]


@pytest.fixture(autouse=True)
def data_set(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    MetadataCatalog.get("regions").set(region_classes=NAMES, region_isthing=ISTHING)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def images(count=6, seed=0):
    """Samples with labels and random embeddings; class 2 and class 6 never occur."""
    rng = np.random.default_rng(seed)
    inputs, outputs = [], []
    for number in range(count):
        labels = torch.from_numpy(rng.choice([0, 1, 3, 4, 5], size=int(rng.integers(0, 9))))
        inputs.append({"classes": labels, "isthing": torch.tensor(ISTHING)[labels], "skipped_segments": 1})
        outputs.append(
            {field: unit(len(labels), 8, seed=number * 10 + i) for i, field in enumerate(("boxes", "masks", "crops"))}
        )
    return inputs, outputs


def accuracy_by_loop(inputs, outputs, text, field, thing, k):
    by_class = {}
    for sample, output in zip(inputs, outputs, strict=True):
        for label, embedding in zip(sample["classes"].tolist(), output[field].numpy(), strict=True):
            if ISTHING[label] == thing:
                best = np.argsort(-(text.numpy() @ embedding))[:k]
                by_class.setdefault(label, []).append(label in best)
    return 100 * np.mean([np.mean(hits) for hits in by_class.values()])


@pytest.mark.parametrize("limit", [1, 7 * 5, 2**26])
def test_equals_a_loop(monkeypatch, limit):
    monkeypatch.setattr(region_accuracy, "_MAX_ELEMENTS", limit)
    (inputs, outputs), text = images(), unit(7, 8)
    evaluator = RegionClassificationEvaluator("regions", text)
    evaluator.process(inputs[:2], outputs[:2])
    evaluator.process(inputs[2:], outputs[2:])
    results = evaluator.evaluate()
    assert set(results) == {"boxes", "thing_masks", "stuff_masks", "crops"}
    for task, field, thing in [
        ("boxes", "boxes", True),
        ("thing_masks", "masks", True),
        ("stuff_masks", "masks", False),
        ("crops", "crops", True),
    ]:
        assert results[task] == {
            f"top{k}": pytest.approx(accuracy_by_loop(inputs, outputs, text, field, thing, k)) for k in (1, 5)
        }


def test_mean_over_present_classes():
    assert mean_class_accuracy(torch.tensor([1, 0, 0, 5]), torch.tensor([2, 0, 4, 5])) == pytest.approx(50)


def test_right_embeddings_score_100_and_text_may_be_a_function():
    text = unit(7, 8)
    inputs, _ = images()
    asked = []

    def embed(names):
        asked.append(names)
        return 3 * text  # lengths do not matter

    evaluator = RegionClassificationEvaluator("regions", embed)
    evaluator.process(inputs, [{"boxes": text[x["classes"]], "masks": text[x["classes"]]} for x in inputs])
    perfect = {"top1": 100, "top5": 100}
    assert evaluator.evaluate() == {"boxes": perfect, "thing_masks": perfect, "stuff_masks": perfect}
    assert asked == [NAMES]


def test_nothing_and_nonsense_are_misses():
    inputs = [{"classes": torch.tensor([0, 1])}]
    evaluator = RegionClassificationEvaluator("regions", unit(7, 8))
    evaluator.process(inputs, [{"boxes": torch.zeros(2, 8), "crops": torch.full((2, 8), torch.nan)}])
    assert evaluator.evaluate() == {"boxes": {"top1": 0, "top5": 0}, "crops": {"top1": 0, "top5": 0}}


def test_reset_forgets():
    (inputs, outputs), text = images(), unit(7, 8)
    evaluator = RegionClassificationEvaluator("regions", text)
    evaluator.process(inputs, outputs)
    first = evaluator.evaluate()
    evaluator.reset()
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate() == first
    evaluator.reset()
    with pytest.raises(InputError, match="no region"):
        evaluator.evaluate()


def test_images_without_regions_are_no_regions():
    evaluator = RegionClassificationEvaluator("regions", unit(7, 8))
    evaluator.process([{"classes": torch.zeros(0, dtype=torch.long)}], [{"boxes": torch.zeros(0, 8)}])
    with pytest.raises(InputError, match="regions"):
        evaluator.evaluate()


def test_table_of_classes(tmp_path):
    text = unit(7, 8)
    evaluator = RegionClassificationEvaluator("regions", text, tmp_path / "out")
    labels = torch.tensor([0, 0, 1, 4])
    evaluator.process([{"classes": labels}], [{"boxes": text[torch.tensor([0, 1, 1, 4])], "masks": text[labels]}])
    assert evaluator.evaluate()["boxes"]["top1"] == pytest.approx(75)
    table = json.loads((tmp_path / "out/region_accuracy.json").read_text())
    assert {name: (row["regions"], row["top1"]) for name, row in table["boxes"].items()} == {
        "cat": (2, 50),
        "dog": (1, 100),
    }
    assert list(table["stuff_masks"]) == ["sand"]


def test_text_of_other_classes_is_refused():
    inputs, outputs = images()
    with pytest.raises(InputError, match="7 classes"):
        RegionClassificationEvaluator("regions", unit(5, 8)).process(inputs, outputs)
    with pytest.raises(InputError, match="not registered"):
        RegionClassificationEvaluator("unheard_of", unit(5, 8)).process(inputs, outputs)


def _rank(rank, world, folder):
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    MetadataCatalog.get("regions").set(region_classes=NAMES, region_isthing=ISTHING)
    inputs, outputs = images()
    evaluator = RegionClassificationEvaluator("regions", unit(7, 8))
    evaluator.process(inputs[rank::world], outputs[rank::world])
    (folder / f"{rank}.json").write_text(json.dumps(evaluator.evaluate()))
    torch.distributed.destroy_process_group()


def test_ranks_agree_with_one_process(tmp_path):
    inputs, outputs = images()
    alone = RegionClassificationEvaluator("regions", unit(7, 8))
    alone.process(inputs, outputs)
    # Forked, for importing everything anew would take many seconds.
    torch.multiprocessing.start_processes(_rank, (2, tmp_path), nprocs=2, start_method="fork")
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone.evaluate()


def test_a_rank_without_images_joins_in(monkeypatch):
    inputs, outputs = images()
    evaluators = [RegionClassificationEvaluator("regions", unit(7, 8)) for _ in range(2)]
    evaluators[0].process(inputs, outputs)
    alone = evaluators[0].evaluate()
    sent = []
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda data: sent.append(data) or sent)
    with pytest.raises(InputError):
        evaluators[1].evaluate()
    assert evaluators[0].evaluate() == alone


class Oracle(nn.Module):
    """Answers with the text embedding of the right class."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def forward(self, inputs):
        return [dict.fromkeys(("boxes", "masks", "crops"), self.text[x["classes"]]) for x in inputs]


def test_real_annotations_give_100_to_an_oracle(assets):
    register_builtin(assets / "data")
    name = "coco_2017_val_panoptic_regions"
    text = unit(133, 64)
    loader = build_test_loader(DatasetCatalog.get(name)[:10], PanopticRegionMapper(), num_workers=0)
    results = inference_on_dataset(Oracle(text), loader, RegionClassificationEvaluator(name, text))
    assert results == {task: {"top1": 100, "top5": 100} for task in ("boxes", "thing_masks", "stuff_masks", "crops")}


def test_classes_that_a_data_set_tells_when_loaded(tmp_path):
    from tests.data.make import panoptic

    segments = [({"id": 9, "category_id": 5, "bbox": [0, 0, 40, 40]}, 0, 40, 0, 40)]
    register_panoptic_regions("late", *panoptic(tmp_path, segments)[:3])
    text = unit(3, 8)
    loader = build_test_loader("late", PanopticRegionMapper(), num_workers=0)
    MetadataCatalog.data.pop("late")
    results = inference_on_dataset(Oracle(text), loader, RegionClassificationEvaluator("late", text))
    assert results == {task: {"top1": 100, "top5": 100} for task in ("boxes", "thing_masks", "crops")}
