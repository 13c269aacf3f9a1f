"""The configs of image-text training: CLIPSelf's but for what their tables say."""

from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from clipself_d2.data import CaptionMapper
from clipself_d2.distillation import ImageText
from clipself_d2.engine.config import load_config, train_settings

FOLDER = Path(__file__).parents[2] / "configs"
PAIRS = {  # ours -> CLIPSelf's, the data set, and the learning rate
    "distillation/image_text_eva02_b16_coco.py": (
        "clipself_eva02_b16_coco_patches.py",
        "coco_2017_train_captions",
        1e-5,
    ),
    "miniature/image_text.py": ("clipself_patches.py", "ov_shapes_train_captions", 4e-4),
}


@pytest.mark.parametrize("file", PAIRS)
def test_all_else_is_as_clipselfs(file):
    name, dataset, rate = PAIRS[file]
    path = FOLDER / file
    ours, theirs = (OmegaConf.to_container(load_config(p), resolve=True) for p in (path, path.with_name(name)))
    train, model = ours["dataloader"]["train"], ours.pop("model")
    assert (train.pop("dataset"), instantiate(train.pop("mapper")).__class__) == (dataset, CaptionMapper)
    assert model.pop("text_tower") == ours["dataloader"]["evaluator"]["text"]["tower"]["module"]
    assert ours["train"].pop("output_dir") == f"output/{path.stem}"
    assert ours["optimizer"].pop("lr") == ours["optimizer"]["params"].pop("lr") == rate
    assert model.pop("_target_") is ImageText
    their_model = theirs.pop("model")
    assert model == {key: their_model[key] for key in model}
    del (
        theirs["train"]["output_dir"],
        theirs["optimizer"]["lr"],
        theirs["optimizer"]["params"]["lr"],
        theirs["proposals"],
        theirs["correlations"],
    )
    for key in ("dataset", "mapper"):
        del theirs["dataloader"]["train"][key]
    for cfg in (ours, theirs):
        del cfg["dataloader"]["evaluator"]["output_dir"]
    assert ours == theirs
    train_settings(load_config(path))


def test_the_miniatures_model_builds():
    model = instantiate(load_config(FOLDER / "miniature/image_text.py", ["clip.pretrained=null"]).model)
    assert isinstance(model, ImageText)
    assert {p.requires_grad for p in model.text_tower.parameters()} == {False}
