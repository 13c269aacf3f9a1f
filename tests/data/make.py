"""Small data sets on disk for the tests of loaders, mappers and evaluators."""

import json

import numpy as np
from PIL import Image


def write_images(folder, count, size=(24, 16)):
    """Writes plain images 0.png, 1.png, ... (width, height), each of one grey level, and their json."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        Image.new("RGB", size, (number, number, number)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
    (folder.parent / "images.json").write_text(json.dumps({"images": images}))
    return folder.parent / "images.json"


def id_to_rgb(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


CATEGORIES = [
    {"id": 5, "name": "cat", "isthing": 1},
    {"id": 9, "name": "grass", "isthing": 0},
    {"id": 2, "name": "dog", "isthing": 1},
]


def panoptic(folder, segments, height=60, width=80, image_id=7):
    """Writes one image with segments, a list of (segment info, y0, y1, x0, x1), later ones in front."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    (folder / "pngs").mkdir(exist_ok=True)
    ids = np.zeros((height, width), dtype=np.int64)
    for info, y0, y1, x0, x1 in segments:
        ids[y0:y1, x0:x1] = info["id"]
    Image.fromarray(id_to_rgb(ids)).save(folder / "pngs" / f"{image_id}.png")
    Image.new("RGB", (width, height), (10, 20, 30)).save(folder / "photos" / f"{image_id}.jpg")
    content = {
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}],
        "annotations": [
            {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": [info for info, *_ in segments]}
        ],
        "categories": CATEGORIES,
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json", folder / "pngs", folder / "photos", ids
