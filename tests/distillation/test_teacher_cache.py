"""A cached teacher gives what the teacher gives, and sees each crop once."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipself_d2.data import DistillationMapper
from clipself_d2.regions import ProposalRegions, crop_and_resize, crop_embeddings
from tests.distillation.cached import count, draw, embed
from tests.distillation.tiny import build, perturb

# ---- what it gives ----


def test_the_array_never_calls_the_teacher_and_gives_the_same_bits(cached, batch):
    model = cached()
    first = embed(model, batch)
    assert model.calls == [count(batch)]
    assert torch.equal(embed(model, batch), first)
    again = cached()
    assert torch.equal(embed(again, batch), first)
    assert model.calls == [count(batch)] and again.calls == []
    assert first.dtype == torch.float32
    torch.testing.assert_close(first.norm(dim=1), torch.ones(len(first)), rtol=0, atol=1e-6)


def test_a_cached_step_is_an_uncached_one_but_for_fp16(model_file, cached, batch):
    plain, ours = embed(build(model_file), batch), embed(cached(), batch)
    torch.testing.assert_close(ours, plain, rtol=2**-10, atol=2**-24)
    assert (1 - (ours * plain).sum(dim=1)).abs().max() < 1e-6
    losses, grads = [], []
    for model in (build(model_file), cached(), cached()):
        perturb(model)
        losses.append(model(batch)["loss_clipself"])
        losses[-1].backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    assert torch.equal(losses[1], losses[2])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_only_missing_crops_are_cut_and_embedded(cached, batch):
    model = cached()
    embed(model, batch[1:2])
    mixed = embed(model, batch)
    assert model.calls == [count(batch[1:2]), count(batch[:1] + batch[2:])]
    boxes = [(x, box) for x in batch for box in x["crop_boxes"].tensor]
    for row, (x, box) in zip(mixed, boxes, strict=True):
        pixels = model.teacher.normalize(crop_and_resize(x["image"], box[None], 32))
        with torch.no_grad():
            [one] = F.normalize(model.tower.image_embeddings(pixels), dim=1)
        assert torch.dot(row, one) > 1 - 1e-5


def test_large_batches_are_cut_across_images(cached, batch, monkeypatch):
    monkeypatch.setattr(crop_embeddings, "_CROP_BATCH", 4)
    model = cached()
    embed(model, batch)
    assert max(model.calls) <= 4 and sum(model.calls) == count(batch)
    assert (embed(model, batch) - embed(cached(), batch)).abs().max() < 1e-3


def test_embeddings_that_overflow_are_not_kept(cached, batch, monkeypatch):
    model = cached()
    forward = model.teacher.image_embeddings
    overflow = lambda x: forward(x).index_fill(0, torch.tensor(0), torch.inf)  # noqa: E731
    monkeypatch.setattr(model.teacher, "image_embeddings", overflow)
    embed(model, batch)
    assert len(model.teacher_cache) == count(batch) - 1


def test_nothing_of_it_is_in_the_state_dict(cached, model_file, batch):
    model = cached()
    model(batch)
    assert model.state_dict().keys() == build(model_file).state_dict().keys()
    assert len(list(model.parameters())) == len(list(build(model_file).parameters()))


def test_a_cache_must_be_open_in_the_precision_of_the_call(cached, batch):
    model = cached()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match=r"was opened for torch\.float32"),
    ):
        embed(model, batch)


# ---- rows that do not count ----


def test_a_changed_image_is_embedded_again(cached, images):
    model = cached()
    first = embed(model, draw(images, 0))
    with Image.open(images[1]["file_name"]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images[1]["file_name"], quality=95)
    batch = draw(images, 0)
    model.calls.clear()
    second = embed(model, batch)
    assert model.calls == [count(batch[1:2])]
    changed = torch.tensor([i == 1 for i, x in enumerate(batch) for _ in x["crop_ids"]])
    assert torch.equal(second[~changed], first[~changed]) and not torch.equal(second[changed], first[changed])
    assert torch.equal(embed(cached(), batch), second)


def test_a_crop_of_other_pixels_is_embedded_again(cached, images, tmp_path):
    def mapper(scale):
        boxes = [{"image_id": r["image_id"], "bbox": [9 * i, 2, 9 + 3 * i, 10]} for r in images for i in range(2)]
        (tmp_path / "p.json").write_text(json.dumps({"annotations": boxes}))
        return DistillationMapper(ProposalRegions(tmp_path / "p.json", crop_scale=scale))

    first = cached(mapper=mapper(1.5))
    embed(first, draw(images, 0, mapper(1.5)))
    other = cached(mapper=mapper(2.0))
    embed(other, draw(images, 0, mapper(2.0)))
    assert first.calls == other.calls == [10]


def test_a_damaged_row_is_embedded_again(cached, batch, tmp_path):
    model = cached()
    expected = embed(model, batch)
    row = model.teacher_cache.starts[batch[2]["file_name"]] + int(batch[2]["crop_ids"][0])
    with (tmp_path / "cache/embeddings").open("r+b") as file:
        file.seek(row * model.teacher.embed_dim * 2 + 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    again = cached()
    assert (embed(again, batch) - expected).abs().max() < 1e-3
    assert again.calls == [1]
    assert torch.equal(embed(cached(), batch), embed(again, batch)) and again.calls == [1]
