"""A walk that is stopped, resumed and shared by ranks gives what one rank gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from clipself_d2.data import ImageMapper
from clipself_d2.data.walk import Walk
from clipself_d2.errors import InputError


@pytest.fixture
def records(tmp_path):
    """Seven images, one of which cannot be read."""
    records = []
    for number in range(7):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.full((8, 10 + number, 3), number, np.uint8)).save(file)
        records.append({"file_name": str(file), "image_id": 10 - number})
    (tmp_path / "3.png").write_bytes(b"no image")
    return records


def process(samples):
    """A result that depends on the whole batch."""
    return [[sample["image_id"], sum(int(x["image"].sum()) for x in samples) / 3] for sample in samples]


def walk_of(records, folder: Path, **settings):
    return Walk(folder / "out.json", records, settings, batch_size=2)


def results(records, folder):
    walk = walk_of(records, folder)
    walk.run(ImageMapper(), process, 0)
    return list(walk.results())


def test_results_come_in_the_order_of_the_data_set(records, tmp_path):
    found = results(records, tmp_path)
    assert [sample["image_id"] for sample, _ in found] == [10, 9, 8, 6, 5, 4]
    assert found[0][0] == {"image_id": 10, "file_name": records[0]["file_name"], "height": 8, "width": 10}
    sums = [3 * 8 * n * (10 + n) for n in range(7)]
    batches = [sums[0] + sums[1]] * 2 + [sums[2]] + [sums[4] + sums[5]] * 2 + [sums[6]]
    assert [result for _, result in found] == [[i, s / 3] for i, s in zip([10, 9, 8, 6, 5, 4], batches, strict=True)]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_walk_goes_on(records, tmp_path, stop):
    expected = results(records, tmp_path / "whole")
    seen = []

    def stopping(samples):
        seen.append([x["image_id"] for x in samples])
        if len(seen) == stop + 1:
            raise KeyboardInterrupt
        return process(samples)

    with pytest.raises(KeyboardInterrupt):
        walk_of(records, tmp_path).run(ImageMapper(), stopping, 0)
    [part] = (tmp_path / "out.json.parts").glob("*.jsonl")
    with part.open("a") as file:
        file.write('[{"image_id": 99')  # a kill while a line is written
    again = []
    walk = walk_of(records, tmp_path)
    walk.run(ImageMapper(), lambda samples: again.append([x["image_id"] for x in samples]) or process(samples), 0)
    assert list(walk.results()) == expected
    walk_of(records, tmp_path).run(ImageMapper(), lambda samples: pytest.fail("nothing is left"), 0)
    complete = [batch for batch in seen[:stop] if len(batch) == 2]
    assert not any(batch in again for batch in complete)
    walk.remove()
    assert not walk.folder.exists()


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_any_number_of_ranks_gives_the_same(records, tmp_path, ranks, monkeypatch):
    """One rank after the other, as if each had looked before the others wrote."""
    expected = results(records, tmp_path / "whole")
    monkeypatch.setattr(comm, "get_world_size", lambda: ranks)
    walks = []
    for rank in range(ranks):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        walk = walk_of(records, tmp_path)
        monkeypatch.setattr(walk, "_places", dict)
        walk.run(ImageMapper(), process, 0)
        walks.append(walk)
    assert list(walk_of(records, tmp_path).results()) == expected
    lines = [json.loads(x) for part in walks[0].folder.glob("*.jsonl") for x in part.read_text().splitlines()]
    assert len(lines) == len(records)  # no image twice


def test_parts_of_other_settings_are_refused(records, tmp_path):
    walk_of(records, tmp_path, top=50).run(ImageMapper(), process, 0)
    with pytest.raises(InputError, match=r"out\.json\.parts: has results of other settings"):
        walk_of(records, tmp_path, top=20)
    with pytest.raises(InputError, match="remove this folder"):
        walk_of(records[:5], tmp_path, top=50)
