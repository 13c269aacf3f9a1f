"""Mutated jsons and images: nothing but an InputError may come out, from reading to mapping and evaluating.

`FUZZ_EXAMPLES=720 python -m pytest -n 0 tests/data/test_fuzz.py` tries 3,600 jsons.
"""

import copy
import io
import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2.data import (
    DetectionMapper,
    LabeledRegions,
    PanopticMapper,
    PanopticRegionMapper,
    get_dataset,
    load_captioned_images,
    load_image_list,
    load_panoptic,
    read_image,
    register_instances,
)
from clipself_d2.data.image import image_size
from clipself_d2.data.instances import load_instances
from clipself_d2.data.labels import read_panoptic_png, read_semantic_labels
from clipself_d2.errors import InputError
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.panoptic.coco_results import ResultImages, save_instance_results, save_panoptic_results
from clipself_d2.regions import load_proposals
from tests.data.make import id_to_rgb

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 30,
    suppress_health_check=list(HealthCheck),
)
HEIGHT, WIDTH = 20, 30
COMPRESSED = coco_mask.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))["counts"].decode()

IMAGES = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]
CATEGORIES = [{"id": 3, "name": "cat", "isthing": 1, "supercategory": "pet"}, {"id": 5, "name": "sky", "isthing": 0}]
POLYGON = [[2, 2, 12, 2, 12, 9.5, 2, 9.5], [1, 1, 4, 1, 4, 4]]
SIZE = [HEIGHT, WIDTH]
OBJECTS = [
    {"image_id": 1, "category_id": 3, "bbox": [2, 2, 10, 7.5], "segmentation": POLYGON, "area": 75, "iscrowd": 0},
    {"image_id": 2, "category_id": 5, "bbox": [0, 0, 30, 20], "segmentation": {"size": SIZE, "counts": [100, 50, 450]}},
    {"image_id": 2, "category_id": 3, "bbox": [1, 1, 5, 5], "segmentation": {"size": SIZE, "counts": COMPRESSED}},
]
for number, entry in enumerate(OBJECTS):
    entry["id"] = number
SEGMENTS = [
    {"id": 10, "category_id": 3, "bbox": [0, 0, 30, 10], "iscrowd": 0, "area": 300},
    {"id": 11, "category_id": 5},
]
FILES = {
    "instances": {"images": IMAGES, "annotations": OBJECTS, "categories": CATEGORIES},
    "panoptic": {
        "images": IMAGES,
        "annotations": [{"image_id": i, "file_name": f"{i}.png", "segments_info": SEGMENTS} for i in (1, 2)],
        "categories": CATEGORIES,
    },
    "captions": {"images": IMAGES, "annotations": [{"image_id": 1, "caption": "a cat"}]},
    "results": [{k: v for k, v in {"score": 0.5, **OBJECTS[1]}.items() if k not in ("bbox", "area")}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "images").mkdir()
    (folder / "pngs").mkdir()
    ids = np.repeat([10, 11], [HEIGHT // 2, HEIGHT // 2])[:, None].repeat(WIDTH, axis=1)
    for image in IMAGES:
        Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(folder / "images" / image["file_name"])
        Image.fromarray(id_to_rgb(ids)).save(folder / "pngs" / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(FILES["instances"]))
    return folder


NUMBERS = [float("nan"), float("inf"), 1e308, 1e9, -1e9, 1e6, 776.7, 10**25, 2**63, 2**31, 2, 1, 0, -1, True, None]
TEXTS = ["", "1", "../x.png", "/etc/passwd", "a\\b.png", "\ud800", "\0", "x" * 300]
NESTED = [[], {}, [[]], [None], [1, [2]], {"id": 1}, {"size": SIZE, "counts": []}, {"size": [10**6] * 2, "counts": "1"}]
HOSTILE = st.sampled_from([*NUMBERS, *TEXTS, *NESTED]) | st.lists(st.floats(), max_size=8) | st.text(max_size=6)


def places(content, path=()):
    """The paths to every value of a json."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, content):
    """A json with one to three changes: a value replaced, removed or repeated; or, at times, broken text."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([path for path in places(content) if path] or [(0,)]))
        parent = content
        for key in path:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if change == "replace":
            parent[last] = copy.deepcopy(draw(HOSTILE))
        elif change == "remove":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        if not content:
            break
    data = json.dumps(content).encode()
    if draw(st.integers(0, 9)) == 0:
        position = draw(st.integers(0, len(data)))
        data = data[:position] + draw(st.binary(max_size=4)) + data[position + draw(st.integers(0, 40)) :]
    return data


def attempt(*steps):
    """Run steps, each on what the one before returned, as far as an InputError."""
    result = None
    try:
        for step in steps:
            result = step(result)
    except InputError as error:
        assert "\n" not in str(error)


def train(records):
    for masks in (False, True):
        mapper = DetectionMapper(32, masks=masks)
        mapper.check(records)
        for record in records:
            mapper(record, np.random.default_rng(0))


@SETTINGS
@given(data=mutated(FILES["instances"]))
def test_instances(folder, data):
    file, images = folder / "x.json", folder / "images"
    file.write_bytes(data)
    attempt(lambda _: load_instances(file, images)[0], train)
    attempt(lambda _: load_instances(file, images, [["cat"], ["sky"], ["dog"]], novel=["sky"], training=True))
    attempt(lambda _: load_image_list(file, images), lambda records: [read_image(r["file_name"]) for r in records])
    attempt(lambda _: load_proposals(file))
    attempt(lambda _: LabeledRegions(file), lambda regions: [regions(i, HEIGHT, WIDTH) for i in (1, 2)])


@SETTINGS
@given(data=mutated(FILES["instances"]))
def test_ground_truth(folder, data):
    (folder / "x.json").write_bytes(data)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("fuzz", None)
    register_instances("fuzz", folder / "x.json", folder / "images")

    def decode(truth):
        api = truth.coco()
        return [api.annToMask(a) for a in truth.annotations if "segmentation" in a]

    attempt(lambda _: get_dataset("fuzz"))
    attempt(lambda _: GroundTruth.load("fuzz"), decode)


@SETTINGS
@given(data=mutated(FILES["panoptic"]))
def test_panoptic(folder, data):
    file = folder / "x.json"
    file.write_bytes(data)

    def load(_):
        return load_panoptic(file, folder / "pngs", folder / "images")[0]

    for mapper in (PanopticMapper(), PanopticRegionMapper()):
        attempt(load, lambda records, mapper=mapper: [mapper(record) for record in records])
    known = ResultImages.of_annotations(folder / "instances.json")
    attempt(lambda _: save_panoptic_results(file, folder / "pngs", folder / "out", known))
    attempt(lambda _: ResultImages.of_annotations(file))


@SETTINGS
@given(data=mutated(FILES["captions"]))
def test_captions(folder, data):
    (folder / "x.json").write_bytes(data)
    attempt(lambda _: load_captioned_images(folder / "x.json", folder / "images"))


@SETTINGS
@given(data=mutated(FILES["results"]))
def test_results(folder, data):
    (folder / "x.json").write_bytes(data)
    known = ResultImages.of_annotations(folder / "instances.json")
    attempt(lambda _: save_instance_results(folder / "x.json", folder / "out", known))


def encoded(kind):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@st.composite
def damaged(draw):
    """An image file with bytes changed, cut off or inserted, under the name of any format."""
    data = bytearray(encoded(draw(st.sampled_from(["png", "jpeg", "bmp", "webp", "tiff", "gif"]))))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, min(len(data), 120) - 1)) | st.integers(0, max(0, len(data) - 1)))
        change = draw(st.sampled_from(["set", "set", "set", "cut", "insert"]))
        if change == "set" and data:
            data[position] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[position : position + draw(st.integers(1, 200))]
        else:
            data[position:position] = draw(st.binary(max_size=8))
    return bytes(data), draw(st.sampled_from([".png", ".jpg", ".tif"]))


@SETTINGS
@given(image=damaged())
def test_images(folder, image):
    data, suffix = image
    file = folder / f"x{suffix}"
    file.write_bytes(data)
    attempt(lambda _: read_image(file))
    attempt(lambda _: read_image(file, 8))
    attempt(lambda _: image_size(file))
    attempt(lambda _: read_semantic_labels(file))
    attempt(lambda _: read_panoptic_png(file))
