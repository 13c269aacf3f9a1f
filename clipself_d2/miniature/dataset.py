"""OV-Shapes on disk: photographs, boxes, masks, panoptic segments and captions in COCO's formats."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from clipself_d2.data.annotations import load_image_list, load_panoptic
from clipself_d2.data.captions import load_captioned_images
from clipself_d2.data.instances import load_instances
from clipself_d2.errors import InputError
from clipself_d2.miniature.captions import TEMPLATES
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import CLASSES, STUFF, THINGS, Scene, frequency, is_novel, sample_scene

VERSION = "v1"
"""Changes whenever the drawn scenes change, so that old pictures are not mistaken for new ones."""

SPLITS: dict[str, int] = {"train": 1500, "val": 250}
"""Scenes of each split; the splits' seeds never meet."""

NOVEL = [name for i, name in enumerate(THINGS) if is_novel(i)]
"""Things that an open-vocabulary detector is not trained on."""

IMAGE_SIZE = 128
_SMALLEST = 24  # pixels of a thing that is annotated


def categories() -> list[dict[str, Any]]:
    """COCO categories: things 1..96 with `split` and LVIS-style `frequency`, then stuff."""
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
    """Scene `index` of a split, a function of the two alone."""
    return sample_scene(np.random.default_rng([list(SPLITS).index(split), index]))


def ensure_ov_shapes(root: str | Path) -> Path:
    """The folder of the data set below `root`, drawn now (20 s) if it is missing.

    It appears whole: several processes may ask for it at once, and an interrupted one leaves nothing behind that is
    taken for the data set.

    Raises:
        InputError: if it cannot be written there.
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
    """Draws `count` scenes into `folder/{split}` and `folder/panoptic_{split}`, and writes `folder/annotations`."""
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
    """Draws one scene and describes it in COCO's terms."""
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
        if area < _SMALLEST:
            continue
        labels[mask, 0] = segment + 1  # COCO's id of a colour: red + 256 green + 65536 blue
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


def register_ov_shapes(root: str | Path | None = None) -> None:
    """Registers, for train and val: `ov_shapes_{split}` (instances), `..._images`, `..._captions` and
    `..._panoptic_regions`.

    `ov_shapes_train_base` is what an open-vocabulary detector may learn from: the instances of base classes alone, in
    the scenes that have one. Its label space is that of the others, all 96 things.

    Args:
        root: folder that holds, or will hold, the drawn data set; default $DETECTRON2_DATASETS, else ./datasets.
    """
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for split in SPLITS:

        def load_things(split: str = split, training: bool = False) -> list[dict[str, Any]]:
            folder = ensure_ov_shapes(base)
            json_file, classes = folder / f"annotations/instances_{split}.json", [(name,) for name in THINGS]
            return load_instances(json_file, folder / split, classes, novel=NOVEL, training=training)[0]

        def load_images(split: str = split) -> list[dict[str, Any]]:
            folder = ensure_ov_shapes(base)
            return load_image_list(folder / f"annotations/instances_{split}.json", folder / split)

        def load_captions(split: str = split) -> list[dict[str, Any]]:
            folder = ensure_ov_shapes(base)
            return load_captioned_images(folder / f"annotations/captions_{split}.json", folder / split)

        def load_regions(split: str = split) -> list[dict[str, Any]]:
            folder = ensure_ov_shapes(base)
            return load_panoptic(
                folder / f"annotations/panoptic_{split}.json", folder / f"panoptic_{split}", folder / split
            )[0]

        register(f"ov_shapes_{split}", load_things)
        _describe(f"ov_shapes_{split}")
        folder = base / f"ov_shapes_{VERSION}"
        MetadataCatalog.get(f"ov_shapes_{split}").set(
            json_file=str(folder / f"annotations/instances_{split}.json"), image_root=str(folder / split)
        )
        register(f"ov_shapes_{split}_images", load_images)
        MetadataCatalog.get(f"ov_shapes_{split}_images").set(
            captions_json=str(folder / f"annotations/captions_{split}.json"),
            caption_nouns="phrases",
            caption_templates=TEMPLATES,
            made_at_first_use=True,
        )
        register(f"ov_shapes_{split}_captions", load_captions)
        register(f"ov_shapes_{split}_panoptic_regions", load_regions)
        MetadataCatalog.get(f"ov_shapes_{split}_panoptic_regions").set(
            region_classes=list(CLASSES), region_isthing=[i < len(THINGS) for i in range(len(CLASSES))]
        )

    register("ov_shapes_train_base", lambda: load_things("train", training=True))
    _describe("ov_shapes_train_base")


def _describe(name: str) -> None:
    MetadataCatalog.get(name).set(
        thing_classes=list(THINGS),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(THINGS))},
        novel_classes=NOVEL,
        class_frequency=[frequency(i) for i in range(len(THINGS))],
        evaluator_type="coco",
        made_at_first_use=True,
    )


def register(name: str, load: Callable[[], list[dict[str, Any]]]) -> None:
    """Registers a data set of the miniature, in place of one of this name."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
