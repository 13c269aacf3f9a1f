"""OV-Shapes on disk: images, boxes, masks, panoptic segments and captions in COCO's formats."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from clipself_d2.errors import InputError
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import CLASSES, STUFF, THINGS, Scene, frequency, is_novel, sample_scene

VERSION = "v2"
"""Part of the folder's name. Change it whenever the drawn scenes change."""

SPLITS: dict[str, int] = {"train": 1500, "val": 250}
"""The number of scenes of each split. The splits share no seed."""

NOVEL = [name for i, name in enumerate(THINGS) if is_novel(i)]
"""The novel classes, on which open-vocabulary models are not trained."""

IMAGE_SIZE = 128
_MIN_AREA = 24  # pixels of an annotated segment


def categories() -> list[dict[str, Any]]:
    """Return COCO's categories: things 1..96 with `split` and LVIS' `frequency`, then stuff."""
    things = [
        {
            "id": i + 1,
            "name": name,
            "isthing": 1,
            "split": "novel" if is_novel(i) else "base",
            "frequency": frequency(i),
        }
        for i, name in enumerate(THINGS)
    ]
    return things + [{"id": len(THINGS) + i + 1, "name": name, "isthing": 0} for i, name in enumerate(STUFF)]


def scene_of(split: str, index: int) -> Scene:
    """Return scene `index` of a split. It depends on nothing else."""
    return sample_scene(np.random.default_rng([list(SPLITS).index(split), index]))


def ensure_ov_shapes(root: str | Path) -> Path:
    """Return the folder of the data set below `root`, and draw the data set (20 s) if it is missing.

    The folder appears whole or not at all, even if several processes draw it at once or one is interrupted.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(root) / f"ov_shapes_{VERSION}"
    if not folder.is_dir():
        draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        try:
            for split, count in SPLITS.items():
                write_split(draft, split, count)
            draft.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise InputError(
                    f"{root}: OV-Shapes cannot be drawn there ({error.strerror}): set DETECTRON2_DATASETS to a folder "
                    "that can be written"
                ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_split(folder: Path, split: str, count: int) -> None:
    """Draw scenes into `folder/{split}` and `folder/panoptic_{split}`, and write `folder/annotations`."""
    for name in (split, f"panoptic_{split}", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    for index in tqdm(range(count), f"OV-Shapes {split}", unit="scene", delay=1):
        drawn = _draw(folder, split, index)
        images.append(drawn["image"])
        panoptic.append(drawn["panoptic"])
        captions.append({"id": len(captions) + 1, **drawn["caption"]})
        instances += [{"id": len(instances) + k, **x} for k, x in enumerate(drawn["instances"], 1)]
    things = [c for c in categories() if c["isthing"]]
    for kind, content, classes in (
        ("instances", instances, things),
        ("panoptic", panoptic, categories()),
        ("captions", captions, []),
    ):
        text = json.dumps({"images": images, "annotations": content, "categories": classes})
        (folder / "annotations" / f"{kind}_{split}.json").write_text(text)


def _draw(folder: Path, split: str, index: int) -> dict[str, Any]:
    """Draw one scene and return its annotations."""
    scene = scene_of(split, index)
    pixels, segments = render(scene, IMAGE_SIZE)
    name, image_id = f"{index:06d}.png", index + 1
    Image.fromarray(pixels).save(folder / split / name, compress_level=1)

    labels = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    instances: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for segment in range(len(scene.grounds) + len(scene.things)):
        thing = segment - len(scene.grounds)
        mask = segments == segment
        area = int(mask.sum())
        if area < _MIN_AREA:
            continue
        labels[mask, 0] = segment + 1  # COCO's id of a color: red + 256 green + 65536 blue
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        bbox = [float(v) for v in coco_mask.toBbox(rle)]
        category = scene.things[thing].category + 1 if thing >= 0 else len(THINGS) + scene.grounds[segment].category + 1
        common = {"category_id": category, "bbox": bbox, "area": area, "iscrowd": 0}
        infos.append({"id": segment + 1, **common})
        if thing >= 0:
            rle["counts"] = rle["counts"].decode()
            instances.append({"image_id": image_id, "segmentation": rle, **common})
    Image.fromarray(labels).save(folder / f"panoptic_{split}" / name)
    named = [CLASSES[info["category_id"] - 1] for info in infos]
    return {
        "image": {"id": image_id, "file_name": name, "height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "instances": instances,
        "panoptic": {"image_id": image_id, "file_name": name, "segments_info": infos},
        "caption": {"image_id": image_id, "caption": "a " + ", a ".join(named)},
    }
