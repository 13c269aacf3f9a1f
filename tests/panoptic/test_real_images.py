"""Images of COCO and ADE20K, end to end through the configs, with random weights asked for by name."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.data.builtin import register_builtin
from clipself_d2.engine.main import main
from clipself_d2.panoptic.coco_results import ResultImages, save_panoptic_results
from tests.tools.loading import load_tool

CONFIGS = Path(__file__).parents[2] / "configs/panoptic"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COCO_IMAGES = 3


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "tiny.json"
    model.write_text(json.dumps(TINY))

    def run(config, *overrides):
        output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        tiny = [
            f"clip.name={model}",
            "clip.pretrained=null",
            "model.size=128",
            "model.vocabulary.text.templates=photo",
        ]
        loader = ["dataloader.test.num_workers=0", "train.device=cpu", f"train.output_dir={output}"]
        arguments = ["--eval-only", "--config-file", str(CONFIGS / config), *tiny, *loader, *overrides]
        assert main(arguments) == 0
        return json.loads((output / "results.json").read_text())

    return run


@pytest.fixture
def coco(assets, tmp_path):
    """The first images of COCO panoptic val as a folder of data sets."""
    source, root = assets / "data/coco", tmp_path / "datasets/coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").symlink_to(source / "val2017")
    (root / "annotations/panoptic_val2017").symlink_to(source / "annotations/panoptic_val2017")
    content = json.loads((source / "annotations/panoptic_val2017.json").read_text())
    content["annotations"] = content["annotations"][:COCO_IMAGES]
    images = {a["image_id"] for a in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in images]
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    instances = json.loads((source / "annotations/instances_val2017.json").read_text())
    instances["images"] = [image for image in instances["images"] if image["id"] in images]
    instances["annotations"] = [a for a in instances["annotations"] if a["image_id"] in images]
    (root / "annotations/instances_val2017.json").write_text(json.dumps(instances))
    return root


def test_coco(evaluate, coco, tmp_path, capsys):
    register_builtin(coco.parent)
    truth = "fcclip_openai_l14_336_coco.py", "model.generator=${ground_truth}"
    found = evaluate(*truth, "model.alpha=0", "model.beta=0")
    assert found["panoptic"]["PQ"] == found["panoptic"]["SQ"] == found["panoptic"]["RQ"] == pytest.approx(100)
    assert found["sem_seg"]["mIoU"] == pytest.approx(100)
    found = evaluate(*truth, "model.alpha=1", "model.beta=1")
    assert 0 <= found["panoptic"]["PQ"] < 60  # random weights

    # The ground truth as another system's result, saved and read again.
    files = coco / "annotations/panoptic_val2017.json", coco / "annotations/panoptic_val2017"
    known = ResultImages.of_dataset("coco_2017_val_panoptic_ov")
    assert save_panoptic_results(*files, tmp_path / "masks", known) == COCO_IMAGES
    saved = [f"model.generator.folder={tmp_path / 'masks'}"]
    found = evaluate("odise_caption_openai_l14_336_coco.py", *saved, "model.alpha=0", "model.beta=0")
    assert found["panoptic"]["PQ"] == pytest.approx(100)
    assert 0 <= evaluate("fcclip_openai_l14_336_coco.py", *saved, "model.tasks=[panoptic_seg]")["panoptic"]["PQ"] < 60

    # Masks that were saved for other images.
    next((tmp_path / "masks").iterdir()).unlink()
    with pytest.raises(AssertionError):
        evaluate("fcclip_openai_l14_336_coco.py", *saved)
    assert "is missing: save the masks of" in capsys.readouterr().err


def test_ade20k(evaluate, assets, tmp_path):
    """Semantic labels alone: each class of an image is a segment."""
    root = tmp_path / "datasets/ADEChallengeData2016"
    (root / "images").mkdir(parents=True)
    (root / "images/validation").symlink_to(assets / "data/ade20k/images/validation")
    (root / "annotations_detectron2").mkdir()
    (root / "annotations").symlink_to(assets / "data/ade20k/annotations")
    (root / "objectInfo150.txt").symlink_to(assets / "data/ade20k/objectInfo150.txt")
    assert load_tool("prepare_ade20k", "datasets").prepare_scene_parsing(root, "val") == 3
    register_builtin(root.parent)
    semantic = "dataloader.test.dataset=ade20k_150_val_sem_seg", "model.tasks=[sem_seg]"
    truth = "fcclip_openai_l14_336_coco.py", "model.generator=${ground_truth}", *semantic
    found = evaluate(*truth, "model.alpha=0", "model.beta=0")
    assert found["sem_seg"]["mIoU"] == pytest.approx(100)
    found = evaluate(*truth, "model.alpha=1", "model.beta=1")
    assert set(found) == {"sem_seg"}
    assert {"mIoU", "mIoU_seen", "mIoU_novel"} <= set(found["sem_seg"])
