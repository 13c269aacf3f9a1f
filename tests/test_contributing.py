"""CONTRIBUTING's list of extensions: each is one file and one line in a table; toys of each kind are added here."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from open_clip.timm_model import TimmModel
from PIL import Image
from timm.models.convnext import ConvNeXt
from torch import nn

from clipself_d2.clip import ImageTower, TowerFeatures, build, build_image_tower
from clipself_d2.data import (
    DetectionMapper,
    ImageMapper,
    build_test_loader,
    build_train_loader,
    builtin,
    register_instances,
)
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.distillation import CLIPSelf, Student
from clipself_d2.engine.trainer import Trainer
from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator
from clipself_d2.panoptic import MaskPredictions, OpenVocabularyPanoptic
from clipself_d2.regions import fuse_scores, fusion
from clipself_d2.vocabulary import Vocabulary
from reproduction import catalog, command, miniature, numbers
from reproduction.miniature import PATCHES
from reproduction.tables import rows_of
from tests.panoptic.color_tower import ColorTower
from tests.reproduction.fake import FakeRunner

CONVNEXT = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "", "image_size": 64},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class ToyTower(ImageTower):
    """A ConvNeXt without projection: the last stage's locations are the embeddings, their mean is the image's."""

    def __init__(self, visual, pixel_mean, pixel_std):
        width = visual.trunk.num_features
        super().__init__(
            visual,
            stride=32,
            embed_dim=width,
            native_grid=(2, 2),
            num_blocks=len(visual.trunk.stages),
            block_dim=width,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    def matches(cls, visual):
        return isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt)

    def image_embeddings(self, images):
        return self.features(images).dense.mean(dim=(2, 3))

    def features(self, images, blocks=(), dense_mode="no_attn", padded_size=None):
        self.padded_map_size(images, padded_size)
        x, maps = self.visual.trunk.stem(images), []
        for stage in self.trainable_units():
            x = self.checkpointed(stage)(x)
            maps.append(x)
        return TowerFeatures(F.normalize(x.float(), dim=1), [maps[i] for i in blocks])

    def masked_embeddings(self, images, masks):
        raise InputError("ToyTower has no masked attention")

    def trainable_units(self):
        return list(self.visual.trunk.stages)


class ToyLoss(Student):
    """All locations of the dense map are drawn to one direction."""

    def losses(self, inputs):
        boxes = [x["regions"].tensor for x in inputs]
        embeddings = self.embed_regions([x["image"] for x in inputs], boxes)
        return {"loss_toy": 1 - embeddings[:, 0].mean()}


@pytest.fixture
def tower(monkeypatch, tmp_path):
    (tmp_path / "toy-convnext.json").write_text(json.dumps(CONVNEXT))
    with pytest.raises(InputError, match="ConvNeXt, has no dense map"):
        build_image_tower(str(tmp_path / "toy-convnext.json"), None)
    monkeypatch.setattr(build, "IMAGE_TOWERS", (*build.IMAGE_TOWERS, ToyTower))
    return build_image_tower(str(tmp_path / "toy-convnext.json"), None)


def sample(seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, 64, 48), generator=generator, dtype=torch.uint8)
    boxes = Boxes(torch.tensor([[0.0, 0, 30, 40], [10, 10, 48, 64]]))
    return {"image": image, "image_id": seed, "regions": boxes, "crop_boxes": boxes}


def train(model, steps):
    trainer = Trainer(
        model, [[sample(0), sample(1)]] * steps, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    )
    trainer.train(0, steps)
    return list(trainer.storage.history("total_loss").values())


def test_a_tower_is_a_file_and_a_line(tower):
    assert isinstance(tower, ToyTower) and not tower.training
    model = CLIPSelf(tower, 96, trainable_blocks=1).train()
    assert len(train(model, 2)) == 2
    boxes = model.eval()([{"image": sample(0)["image"], "boxes": sample(0)["regions"]}])[0]["boxes"]
    torch.testing.assert_close(boxes.norm(dim=1), torch.ones(2))


def test_a_loss_is_a_file(tower):
    model = ToyLoss(tower, 64, trainable_blocks=1, alpha=0.5).train()
    losses = [loss for loss, _ in train(model, 4)]
    assert losses[-1] < losses[0]
    assert model.ensembled_state_dict().keys() == tower.state_dict().keys()


def test_a_fusion_rule_is_a_function_and_a_line(monkeypatch):
    def arithmetic_mean(detector, clip, weight):
        return detector.exp() * (1 - weight) + clip.exp() * weight

    monkeypatch.setitem(fusion.VARIANTS, "mean", arithmetic_mean)
    detector, clip = torch.rand(4, 3).log(), torch.rand(4, 3).log()
    fused = fuse_scores(detector, clip, torch.tensor([True, False]), 0.25, 0.75, "mean")
    weight = torch.tensor([0.25, 0.75, 0.25])
    torch.testing.assert_close(fused, detector.exp() * (1 - weight) + clip.exp() * weight)
    assert isinstance(fused, torch.Tensor) and not isinstance(arithmetic_mean, nn.Module)


@pytest.fixture
def toy_data(monkeypatch, tmp_path):
    """Two images below a folder of data sets, and their row in the table."""
    (tmp_path / "toys/images").mkdir(parents=True)
    boxes = {"ball": [5, 5, 20, 10], "kite": [30, 8, 12, 30]}
    content = {"images": [], "annotations": [], "categories": [{"id": 8, "name": "kite"}, {"id": 9, "name": "ball"}]}
    for number, (name, box) in enumerate(boxes.items()):
        Image.fromarray(np.full((48, 64, 3), 90 * number, np.uint8)).save(tmp_path / f"toys/images/{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        category = 9 if name == "ball" else 8
        content["annotations"].append({"id": number + 1, "image_id": number, "category_id": category, "bbox": box})
    (tmp_path / "toys/toys.json").write_text(json.dumps(content))
    table = builtin.builtin_datasets

    def with_toys(root):
        files = {"json_file": root / "toys/toys.json", "image_root": root / "toys/images"}
        return {**table(root), "toys": partial(register_instances, **files, classes=["ball", "kite"], novel=["kite"])}

    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setattr(builtin, "builtin_datasets", with_toys)
    builtin.register_builtin(tmp_path)
    return "toys"


def test_a_data_set_is_a_row(toy_data):
    vocabulary = dataset_vocabulary(toy_data, lambda classes: torch.eye(3)[: len(classes)])
    assert vocabulary.names == ["ball", "kite"] and vocabulary.is_base.tolist() == [True, False]
    batch = next(iter(build_train_loader(toy_data, DetectionMapper(64), 2, seed=0, num_workers=0)))
    assert {sample["image_id"]: sample["instances"].gt_classes.tolist() for sample in batch} == {0: [0], 1: [1]}
    evaluator = OpenVocabularyCOCOEvaluator(toy_data)
    for inputs in build_test_loader(toy_data, ImageMapper(), num_workers=0):
        instances = Instances((48, 64))
        x, y, w, h = [[5, 5, 20, 10], [30, 8, 12, 30]][inputs[0]["image_id"]]
        instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]]).float())
        instances.scores = torch.tensor([0.9])
        instances.pred_classes = torch.tensor([inputs[0]["image_id"]])
        evaluator.process(inputs, [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert [results[f"AP50_{group}"] for group in ("novel", "base", "all")] == pytest.approx([100] * 3)


class QuarterMasks:
    """Every image of 64 x 64 pixels has four segments, its quarters, of which nothing is known."""

    def __call__(self, inputs, vocabulary):
        quarters = torch.full((4, 2, 2), -20.0)
        quarters.view(4, 4).fill_diagonal_(20.0)
        quarters = quarters.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)
        log_scores = torch.full((4, len(vocabulary) + 1), 1 / (len(vocabulary) + 1)).log()
        return [MaskPredictions(quarters, log_scores) for _ in inputs]


def test_a_mask_generator_is_a_call():
    """It needs no base class and no registration: a config names it as `model.generator`."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for channel, (top, left) in enumerate([(0, 0), (0, 32), (32, 0)]):
        image[channel, top : top + 32, left : left + 32] = 255
    image[2, 32:, 32:] = 255
    vocabulary = L(Vocabulary)(classes=["red", "green", "blue"], embeddings=L(torch.eye)(n=3))
    parts = {"generator": L(QuarterMasks)(), "tower": L(ColorTower)(), "vocabulary": vocabulary}
    node = L(OpenVocabularyPanoptic)(**parts, isthing=[True, False, True], size=64, alpha=1, beta=1)
    model = instantiate(node)
    ids, segments = model([{"image": image}])[0]["panoptic_seg"]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (1, False), (2, True), (2, True)]
    assert [int((ids == s["id"]).sum()) for s in segments] == [32 * 32] * 4


def test_a_table_is_an_entry_and_its_rows(monkeypatch, tmp_path, capsys):
    runs = {rate: PATCHES.having(f"optimizer.lr={rate}", "train.max_iter=2") for rate in ("1e-3", "1e-2")}
    monkeypatch.setitem(catalog.ENTRIES, "toy", catalog.Entry("A toy: learning rates", "rate", numbers.BOXES))
    rows = rows_of(runs, {"1e-3": (72.1,), "1e-2": (70.0,)}, numbers.BOXES)
    monkeypatch.setitem(miniature.ROWS, "toy", rows)
    runner = FakeRunner()
    assert command.main(["toy", "--output", str(tmp_path), "--markdown"], runner) == 0
    assert [job.config.optimizer.lr for job in runner.jobs] == [1e-3, 1e-2]
    assert re.search(r"\| 1e-2 +\| +95.0 \| +70.0 \|", capsys.readouterr().out)
    results = json.loads((tmp_path / "toy-miniature/results.json").read_text())
    assert [row["paper"]["boxes top-1"] for row in results["rows"]] == [72.1, 70.0]
