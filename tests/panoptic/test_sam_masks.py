import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2 import miniature
from clipself_d2.cli import main
from clipself_d2.errors import InputError
from clipself_d2.panoptic import OpenVocabularyPanoptic, SAMMasks
from clipself_d2.panoptic import sam_masks as module
from tests.panoptic.color_tower import ColorTower
from tests.panoptic.sam import write_sam
from tests.panoptic.words import vocabulary
from tests.second_device import SecondDevice

EVERYTHING = {"points_per_side": 3, "min_iou": 0.0, "min_stability": 0.0, "nms": 1.0}


@pytest.fixture(scope="module", params=["sam", "sam2"])
def folder(request, tmp_path_factory, transformers):
    path = tmp_path_factory.mktemp(request.param)
    write_sam(transformers, request.param, path)
    return path


def image(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_it_gives_what_the_model_computes_for_each_point(folder, transformers):
    pixels, generator = image(60, 60), SAMMasks(folder, **EVERYTHING)
    [found] = generator([{"image": pixels}], vocabulary("cat", "sky"))
    model = transformers.AutoModelForMaskGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    batch = processor(images=[pixels.permute(1, 2, 0).numpy()], return_tensors="pt")
    places = [batch["pixel_values"].shape[-1] * (i + 0.5) / 3 for i in range(3)]
    with torch.no_grad():
        output = model(
            pixel_values=batch["pixel_values"],
            input_points=torch.tensor([[x, y] for y in places for x in places])[None, :, None],
            input_labels=torch.ones(1, 9, 1, dtype=torch.long),
        )
    sizes = {key: batch[key].tolist() for key in ("original_sizes", "reshaped_input_sizes") if key in batch}
    masks = processor.post_process_masks(output.pred_masks, **sizes)[0].flatten(0, 1).bool()
    iou = output.iou_scores.flatten().clamp(0, 1)
    assert found.masks.shape == masks.shape == (27, 60, 60)
    torch.testing.assert_close(found.mask_iou, iou.sort(descending=True).values, rtol=0, atol=1e-5)
    for mask, score in zip(found.masks > 0, found.mask_iou, strict=True):  # points of equal IoUs come in any order
        assert (masks[(iou - score).abs() < 1e-5] == mask).flatten(1).float().mean(dim=1).max() > 0.999
    torch.testing.assert_close(found.log_scores.exp(), torch.tensor([0.5, 0.5, 0.0]).expand(27, 3))


def test_masks_on_a_second_device(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())  # the library's pipeline sets it
    sample, words = {"image": image(48, 60)}, vocabulary("cat", "sky")
    generator = SAMMasks(folder, **EVERYTHING)
    panoptic = OpenVocabularyPanoptic(generator, ColorTower(), words, [True, False], 64)
    [expected] = panoptic([sample])
    with SecondDevice():
        [found] = panoptic.to("cuda")([sample])
        assert torch.equal(found["panoptic_seg"][0].cpu(), expected["panoptic_seg"][0])


def test_points_cover_the_whole_image_and_masks_have_its_aspect(folder):
    """The model reads an image of 48 x 60 pixels as 51 x 64 in the upper left (SAM), or as 128 x 128 (SAM 2)."""
    generator, points = SAMMasks(folder, **EVERYTHING), []
    generator.model.register_forward_pre_hook(lambda _, args, kw: points.append(kw["input_points"]), with_kwargs=True)
    [found] = generator([{"image": image(48, 60)}], vocabulary("cat"))
    assert found.check(48, 60, 1).masks.shape == (27, 48, 60)
    extent = points[0].flatten(0, -2).amax(dim=0) * 6 / 5  # the last of three points is at five sixths
    expected = [64, 51] if folder.name.startswith("sam0") else [128, 128]
    torch.testing.assert_close(extent, torch.tensor(expected).float(), rtol=0, atol=1e-3)


def test_filters_leave_out_masks_and_an_image_may_have_none(folder):
    fewer = SAMMasks(folder, **{**EVERYTHING, "nms": 0.5})([{"image": image(48, 60)}], vocabulary("cat"))[0]
    assert 0 < len(fewer) < 27
    none = SAMMasks(folder, **{**EVERYTHING, "min_iou": 1.0})
    [found] = none([{"image": image(48, 60)}], vocabulary("cat"))
    assert len(found.check(48, 60, 1)) == 0
    red = torch.zeros(3, 48, 60, dtype=torch.uint8)
    [result] = OpenVocabularyPanoptic(none, ColorTower(), vocabulary("cat"), [True], 64)([{"image": red}])
    assert result["panoptic_seg"][1] == [] and len(result["instances"]) == 0


def test_large_images_are_made_smaller_in_their_aspect(folder, monkeypatch):
    monkeypatch.setattr(module, "_LONG_SIDE", 60)
    [found] = SAMMasks(folder, **EVERYTHING)([{"image": image(96, 120)}], vocabulary("cat"))
    assert found.check(96, 120, 1).masks.shape[1:] == (48, 60)


def test_it_never_trains(folder):
    generator = SAMMasks(folder).train()
    assert not generator.training and not generator.model.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_what_is_wrong_is_said(folder, tmp_path):
    with pytest.raises(InputError, match="points_per_side=0"):
        SAMMasks(folder, points_per_side=0)
    with pytest.raises(InputError, match=r"min_iou=88: must be within 0\.\.1"):
        SAMMasks(folder, min_iou=88)
    with pytest.raises(InputError, match="download=true"):
        SAMMasks("nobody/nothing")
    with pytest.raises(InputError, match="give a folder with"):
        SAMMasks(tmp_path)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An image in the working directory, and the overrides that make the config small."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Image.fromarray(image(48, 60).permute(1, 2, 0).numpy()).save("images/7.png")
    small = [f"model.generator.{key}={value}" for key, value in EVERYTHING.items() if key != "nms"]
    return [*small, "model.size=64", "model.vocabulary.text.templates=photo", "train.device=cpu"]


@pytest.mark.parametrize("folder", ["sam"], indirect=True)
def test_words_for_its_masks_by_one_command(folder, world, capsys):
    clip = ["--clip", miniature.MODEL, "--pretrained", miniature.WEIGHTS]
    words = ["--words", "red star, blue heart", "--masks", str(folder), "--output", "out"]
    assert main(["segment", "images", *words, *clip, *world]) == 0, capsys.readouterr().err
    records = json.loads(Path("out/7.json").read_text())
    assert records and {r["name"] for r in records} <= {"red star", "blue heart"}
    areas = [int(coco_mask.decode(r["segmentation"]).sum()) for r in records]
    assert areas == [r["area"] for r in records] and sum(areas) <= 48 * 60
    assert Path("out/7.png").is_file() or Path("out/7.jpg").is_file()
    assert main(["segment", "images", *words, "--config-file", "miniature/fvit"]) == 2
    assert "--masks has a config of its own" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["sam"], indirect=True)
def test_its_boxes_are_proposals(folder, world, capsys):
    config = ["--config-file", "panoptic/sam_openai_l14_336_coco", f"model.generator.name={folder}"]
    clip = [f"clip.name={miniature.MODEL}", f"clip.pretrained={miniature.WEIGHTS}"]
    data = ["--dataset", "images:images", "--output", "proposals.json", "--num-workers", "0", "--top", "5"]
    assert main(["proposals", *config, *data, *clip, *world]) == 0, capsys.readouterr().err
    written = json.loads(Path("proposals.json").read_text())
    assert 0 < len(written["annotations"]) <= 5
    scores = [each["score"] for each in written["annotations"]]
    assert scores == sorted(scores, reverse=True)
