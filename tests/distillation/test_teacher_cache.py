"""A cached teacher gives what the teacher gives, and is asked once for each crop."""

import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipself_d2.data import DistillationMapper, load_image_list
from clipself_d2.distillation import TeacherCache, open_teacher_cache
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions, ProposalRegions, crop_and_resize, crop_embeddings
from tests.distillation.tiny import build, perturb, sample, write_model, write_photographs


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def batch():
    return [sample(0, 3), sample(1, 0), sample(2, 1), sample(3, 6)]


@pytest.fixture
def cached(model_file, tmp_path, monkeypatch):
    """Builds CLIPSelf with the cache of the test; `calls` lists how many crops its teacher was given."""

    def make(seed=0, **kwargs):
        model = build(model_file, seed, teacher_cache=TeacherCache(tmp_path / "cache"), **kwargs)
        model.calls = []
        forward = model.teacher.image_embeddings

        def spy(pixels):
            model.calls.append(len(pixels))
            return forward(pixels)

        monkeypatch.setattr(model.teacher, "image_embeddings", spy)
        return model

    return make


def embed(model, batch, keys=()):
    return model.embed_crops([x["image"] for x in batch], [x["crop_boxes"].tensor for x in batch], keys)


def test_a_full_cache_never_calls_the_teacher_and_gives_the_same_bits(cached, batch):
    model = cached()
    first = embed(model, batch)
    assert model.calls == [10]
    assert torch.equal(embed(model, batch), first)  # from memory
    model.teacher_cache.flush()
    again = cached()
    assert torch.equal(embed(again, batch), first)  # from the disk
    assert model.calls == [10] and again.calls == []
    assert first.dtype == torch.float32
    torch.testing.assert_close(first.norm(dim=1), torch.ones(10), rtol=0, atol=1e-6)


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
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(losses[1], losses[2])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_only_missing_crops_are_cut_and_embedded(cached, batch):
    model = cached()
    embed(model, batch[:1])
    mixed = embed(model, batch)
    assert model.calls == [3, 7]
    for row, x, box in zip(
        mixed,
        [batch[0]] * 3 + [batch[2]] + [batch[3]] * 6,
        torch.cat([x["crop_boxes"].tensor for x in batch]),
        strict=True,
    ):
        pixels = model.teacher.normalize(crop_and_resize(x["image"], box[None], 32))
        with torch.no_grad():
            [one] = F.normalize(model.tower.image_embeddings(pixels), dim=1)
        assert torch.dot(row, one) > 1 - 1e-5


def test_the_same_crop_twice_is_embedded_once(cached):
    model, x = cached(), sample(0, 3)
    boxes = x["crop_boxes"].tensor[[0, 1, 0, 2, 1]]
    boxes[2] += 0.3  # the same whole pixels
    rows = model.embed_crops([x["image"], x["image"]], [boxes, boxes[:2]])
    assert model.calls == [3]
    assert torch.equal(rows[[0, 1, 5, 6]], rows[[2, 4, 0, 1]])


def test_keys_stand_for_the_pixels(cached, batch):
    model = cached()
    keys = [bytes([i]) * 16 for i in range(4)]
    embed(model, batch, keys)
    others = [{**x, "image": torch.zeros_like(x["image"])} for x in batch]
    embed(model, others, keys)
    assert model.calls == [10]
    embed(model, others)
    assert sum(model.calls) == 20
    embed(model, others, [keys[0], None, None, None])
    assert sum(model.calls) == 20


def test_teachers_sizes_and_precisions_are_told_apart(cached, batch):
    def calls(model):
        embed(model, batch)
        model.teacher_cache.flush()
        return sum(model.calls)

    assert calls(cached()) == 10
    assert calls(cached(seed=1)) == 10
    assert calls(cached(teacher_size=32)) == 0
    other = cached()
    other.tower.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    other.teacher_cache.attach(copy.deepcopy(other.tower), 32)
    assert calls(other) == 10
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert calls(cached()) == 10
        assert calls(cached()) == 0
    half = cached()
    half.teacher_cache.attach(half.teacher, 16)
    assert calls(half) == 10


def test_a_damaged_cache_costs_the_teacher_not_the_result(cached, batch, tmp_path):
    model = cached()
    expected = embed(model, batch)
    model.teacher_cache.flush()
    for path in (tmp_path / "cache").rglob("*.shard"):
        path.write_bytes(path.read_bytes()[:-5])
    again = cached()
    assert torch.equal(embed(again, batch), expected)
    assert again.calls == [10]


def test_what_is_not_finite_is_not_kept(cached, batch, monkeypatch):
    model = cached()
    forward = model.teacher.image_embeddings
    monkeypatch.setattr(
        model.teacher, "image_embeddings", lambda x: forward(x).index_fill(0, torch.tensor(0), torch.inf)
    )
    embed(model, batch)
    assert len(model.teacher_cache.store) == 9


def test_large_batches_are_cut_across_images(cached, monkeypatch):
    monkeypatch.setattr(crop_embeddings, "_CROP_BATCH", 4)
    model = cached()
    batch = [sample(0, 3), sample(1, 2), sample(2, 2), sample(3, 9), sample(4, 1)]
    embed(model, batch)
    assert model.calls == [3, 4, 4, 4, 2]
    assert (embed(model, batch) - embed(cached(), batch)).abs().max() < 1e-3


@pytest.fixture
def photographs(tmp_path):
    write_photographs(tmp_path, 5)
    return load_image_list(None, tmp_path / "coco/unlabeled2017")


def test_a_filled_cache_has_every_crop_that_training_draws(cached, photographs):
    model, mapper = cached(), DistillationMapper(GridRegions(max_split=3))
    model.teacher_cache.fill(model.embed_crops, photographs, mapper, 0)
    assert sum(model.calls) == 5 * len(GridRegions(max_split=3).all_crops(0, 50, 60))
    model.teacher_cache.fill(model.embed_crops, photographs, mapper, 0)  # as after an interruption
    calls = len(model.calls)
    trained = cached().train()
    for seed in range(6):
        assert torch.isfinite(trained([mapper(r, np.random.default_rng(seed)) for r in photographs])["loss_clipself"])
    assert len(model.calls) == calls and trained.calls == []


def test_reading_at_reduced_scale_and_a_filled_cache_agree(cached, tmp_path):
    """The smallest cell of a grid of 6 must keep its 16 pixels in every draw, so that all draws see the same image."""
    records = []
    for number, size in enumerate([(576, 432), (400, 600)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(tmp_path / f"{number}.jpg")
        records.append({"file_name": str(tmp_path / f"{number}.jpg"), "image_id": number})
    model, mapper = cached(), DistillationMapper(GridRegions(), min_decode_size=(64, 16))
    model.teacher_cache.fill(model.embed_crops, records, mapper, 0)
    calls = list(model.calls)
    for seed in range(12):
        samples = [mapper(r, np.random.default_rng(seed)) for r in records]
        assert [max(x["image"].shape) for x in samples] == [144, 150]
        model([*samples])
    assert model.calls == calls


def test_ranks_share_the_images(cached, photographs, monkeypatch):
    models = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        models.append(cached())
        cache = models[-1].teacher_cache
        monkeypatch.setattr("detectron2.utils.comm.synchronize", lambda: None)
        cache.fill(models[-1].embed_crops, photographs, DistillationMapper(GridRegions(max_split=2)), 0)
    assert [sum(model.calls) for model in models] == [9 * 3, 9 * 2]


def test_a_cache_filled_with_proposals(cached, photographs, tmp_path):
    boxes = [{"image_id": r["image_id"], "bbox": [i, 2, 9 + 3 * i, 10]} for r in photographs[1:] for i in range(6)]
    (tmp_path / "p.json").write_text(str({"annotations": boxes}).replace("'", '"'))
    model, mapper = cached(), DistillationMapper(ProposalRegions(tmp_path / "p.json", max_regions=3))
    model.teacher_cache.fill(model.embed_crops, photographs, mapper, 0)
    assert sum(model.calls) == 4 * 6 + 1  # the first photograph has the fallback alone
    for seed in range(6):
        model([mapper(r, np.random.default_rng(seed)) for r in photographs])
    assert sum(model.calls) == 25


def test_a_renamed_photograph_is_the_same(cached, photographs, tmp_path):
    model, mapper = cached(), DistillationMapper(GridRegions(max_split=2))
    model.teacher_cache.fill(model.embed_crops, photographs[:1], mapper, 0)
    calls = list(model.calls)
    shutil.copy(photographs[0]["file_name"], tmp_path / "copy.jpg")
    renamed = [{**photographs[0], "file_name": str(tmp_path / "copy.jpg"), "image_id": 99}]
    model.teacher_cache.fill(model.embed_crops, renamed, mapper, 0)
    assert model.calls == calls


def test_a_full_cache_ends_the_filling(cached, photographs, model_file, tmp_path):
    model = build(model_file, teacher_cache=TeacherCache(tmp_path / "small", budget_gb=1e-6))
    mapper = DistillationMapper(GridRegions(max_split=2))
    model.teacher_cache.fill(model.embed_crops, photographs, mapper, 0)
    model.teacher_cache.fill(model.embed_crops, photographs, mapper, 0)
    assert model.teacher_cache.store.full
    model([mapper(r, np.random.default_rng(0)) for r in photographs])


def test_no_folder_no_cache():
    assert open_teacher_cache() is None and open_teacher_cache("") is None


def test_wrong_values_are_said(tmp_path, model_file):
    with pytest.raises(InputError, match=r"model\.teacher_cache\.budget_gb=0: must be positive"):
        open_teacher_cache(str(tmp_path), budget_gb=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"model\.teacher_cache\.folder: .*file.*cannot be written to") as caught:
        build(model_file, teacher_cache=open_teacher_cache(str(tmp_path / "file")))
    assert "\n" not in str(caught.value)


def test_nothing_of_it_is_in_the_state_dict(cached, model_file, batch):
    model = cached()
    model(batch)
    assert model.state_dict().keys() == build(model_file).state_dict().keys()
    assert len(list(model.parameters())) == len(list(build(model_file).parameters()))
