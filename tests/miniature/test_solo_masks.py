import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.backbones import CLIPBackbone, FPNPyramid
from clipself_d2.clip import build_image_tower
from clipself_d2.data import PanopticMapper
from clipself_d2.engine.checkpoint import Checkpointer
from clipself_d2.engine.launch import launch
from clipself_d2.engine.trainer import Trainer
from clipself_d2.errors import InputError
from clipself_d2.miniature.solo_masks import SegmentMapper, SOLOHead, SOLOMasks, trained_masks
from clipself_d2.vocabulary import Vocabulary

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SIZE = 64


def words(dim=16):
    rows = F.normalize(torch.randn(4, dim, generator=torch.Generator().manual_seed(1)), dim=1)
    return Vocabulary(["red", "green", "blue", "floor"], rows, novel=["blue"])


def build(path, seed=0, **kwargs):
    torch.manual_seed(seed)
    tower = build_image_tower(str(path), None)
    backbone = CLIPBackbone(tower, [1, 2], FPNPyramid(32, scales=(2, 1), channels=32, norm="GN"))
    head = SOLOHead(32, 16, mask_channels=8, num_convs=1)
    return SOLOMasks(backbone, head, words(), SIZE, **{"temperature": 10.0, "cells_per_image": 32, **kwargs})


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("tower") / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def model(config):
    return build(config)


COLORS = torch.tensor([[220, 30, 30], [30, 200, 30], [30, 30, 220], [120, 120, 120]])


def scene(*squares, height=SIZE, width=SIZE):
    """Colored squares (class, top, left, side) on a floor; segments in order, the floor last."""
    owner = torch.full((height, width), len(squares))
    for number, (_, top, left, side) in enumerate(squares):
        owner[top : top + side, left : left + side] = number
    classes = torch.tensor([square[0] for square in squares] + [3])
    masks = owner == torch.arange(len(classes))[:, None, None]
    image = COLORS[classes[owner]].permute(2, 0, 1).to(torch.uint8)
    crowd = torch.zeros(len(classes), dtype=torch.bool)
    return {"image": image, "masks": masks, "classes": classes, "iscrowd": crowd, "height": height, "width": width}


def total(losses):
    return sum(losses.values())


def trained_parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def test_it_learns_to_find_and_name_segments(config):
    model = build(config)
    batch = [scene((0, 0, 0, 24), (1, 32, 32, 24)), scene((1, 8, 0, 24), (0, 24, 40, 24))]
    optimizer = torch.optim.AdamW(trained_parameters(model), lr=5e-3)
    model.train()
    for _ in range(120):
        losses = total(model(batch))
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    model.eval()
    for sample, found in zip(batch, model(batch), strict=True):
        found.check(SIZE, SIZE, 4)
        masks = (found.masks > 0).flatten(1).float()
        truth = sample["masks"].flatten(1).float()
        overlap = truth @ masks.T
        iou = overlap / (truth.sum(1)[:, None] + masks.sum(1) - overlap)
        best, which = iou.max(dim=1)
        assert best.min() > 0.6
        assert found.log_scores[which].argmax(dim=1).tolist() == sample["classes"].tolist()
        # Each once: suppression leaves little of the other cells of the same segment.
        assert found.mask_iou[which].min() > 0.5
        assert int((found.mask_iou > 0.5).sum()) <= 5


def test_the_tower_stays_as_it_is(model):
    before = copy.deepcopy(model.backbone.tower.state_dict())
    model.train()
    total(model([scene((0, 0, 0, 24))])).backward()
    assert not any(p.requires_grad for p in model.backbone.tower.parameters())
    assert not any(name.startswith("backbone.tower.") for name in model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.backbone.tower.state_dict().items())


@pytest.mark.parametrize(
    "batch",
    [
        [scene()],
        [
            {
                **scene(),
                "masks": torch.zeros(0, SIZE, SIZE) > 0,
                "classes": torch.zeros(0).long(),
                "iscrowd": torch.zeros(0) > 0,
            }
        ],
    ],
)
def test_little_or_nothing_to_learn_from_still_reaches_every_parameter(model, batch):
    model.train()
    losses = model(batch)
    total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained_parameters(model))
    if not len(batch[0]["classes"]):
        assert total(losses) == 0
        assert not any(p.grad.any() for p in trained_parameters(model))


def losses_of(model, batch):
    model.train()
    torch.manual_seed(0)  # the cells that are drawn
    return {name: loss.item() for name, loss in model(batch).items()}


@pytest.mark.parametrize("how", ["novel", "crowd", "unlabelled"])
def test_what_must_not_be_learned_has_no_influence(model, how):
    """Neither class nor outline of a novel segment, a crowd or what is not labelled changes the loss."""
    samples = [scene((0, 0, 0, 24), (1, 32, 32, side)) for side in (24, 24)]
    image = samples[0]["image"]
    for number, sample in enumerate(samples):
        sample["image"] = image
        if how == "novel":
            sample["classes"][1] = 2
        elif how == "crowd":
            sample["iscrowd"][1] = True
            sample["classes"][1] = number  # of whatever class
        else:
            keep = torch.tensor([0, 2])
            sample.update({key: sample[key][keep] for key in ("masks", "classes", "iscrowd")})
    # A hole in the novel segment's mask: still unlabelled pixels, as the floor does not claim them.
    if how != "unlabelled":
        samples[1]["masks"][1, 40:44, 40:44] = False
    one, other = (losses_of(model, [sample]) for sample in samples)
    assert one == pytest.approx(other, rel=1e-5)
    assert one["loss_class"] > 0


def test_losses_are_means_over_images(model):
    sample = scene((0, 0, 0, 64))  # one segment: whichever cells are drawn, classes are the same
    sample.update({key: sample[key][:1] for key in ("masks", "classes", "iscrowd")})
    empty = {**sample, "masks": sample["masks"][:0], "classes": sample["classes"][:0], "iscrowd": sample["iscrowd"][:0]}
    alone, both = losses_of(model, [sample])["loss_class"], losses_of(model, [sample, empty])["loss_class"]
    assert both == pytest.approx(alone / 2, rel=0.2)


def test_masks_have_the_images_aspect(model):
    model.eval()
    samples = [scene(height=48, width=96), scene(height=100, width=30), scene()]
    found = model(samples)
    for sample, prediction in zip(samples, found, strict=True):
        prediction.check(sample["height"], sample["width"], 4)
        assert prediction.masks.shape[1:].numel() <= SIZE**2
    assert found[0].masks.shape[1:] == (32, 64)
    assert (found[0].log_scores[:, -1] == float("-inf")).all()
    torch.testing.assert_close(found[0].log_scores.exp().sum(dim=1), torch.ones(len(found[0])))
    assert model([]) == []


def test_an_image_is_the_same_in_any_batch(model):
    model.eval()
    first, second = scene((0, 0, 0, 24)), scene((1, 20, 20, 30), height=40)
    together, alone = model([first, second]), [model([first])[0], model([second])[0]]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.masks, other.masks, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.mask_iou, other.mask_iou, rtol=1e-4, atol=1e-4)


def test_a_generator_that_finds_nothing(config):
    model = build(config, min_mask_iou=1.1).eval()
    (found,) = model([scene()])
    assert found.masks.shape == (0, SIZE, SIZE)
    assert found.log_scores.shape == (0, 5)
    found.check(SIZE, SIZE, 4)


def test_the_vocabulary_is_an_argument_of_the_call(model):
    other = Vocabulary(["tree", "car"], torch.randn(2, 16))
    (found,) = model.eval()([scene()], other)
    found.check(SIZE, SIZE, 2)


def test_bad_input(model, config):
    with pytest.raises(InputError, match="length 8"):
        model.eval()([scene()], words(8))
    model.train()
    with pytest.raises(InputError, match="'masks'"):
        model([{"image": scene()["image"], "file_name": "a.jpg"}])
    with pytest.raises(InputError, match="class 7"):
        model([{**scene(), "classes": torch.tensor([7])}])
    with pytest.raises(InputError, match="multiple"):
        SOLOMasks(model.backbone, model.head, words(), 60)
    unseen = Vocabulary(["a"], torch.randn(1, 16), novel=["a"])
    with pytest.raises(InputError, match="base class"):
        SOLOMasks(model.backbone, model.head, unseen, SIZE)


def test_a_trained_generator_comes_back_from_its_checkpoint(model, config, tmp_path):
    Checkpointer(tmp_path, model=model).save(3)
    again = trained_masks(build(config, seed=0).train(), str(tmp_path / "checkpoint_0000003.pth"))
    assert not again.training
    assert not trained_parameters(again)
    one, other = model.eval()([scene()])[0], again([scene()])[0]
    assert torch.equal(one.masks, other.masks)
    with pytest.raises(InputError, match=r"none\.pth"):
        trained_masks(model, str(tmp_path / "none.pth"))


def _train(config, ranks, folder):
    torch.set_num_threads(1)
    model = build(config)
    rank = comm.get_rank()
    network = DistributedDataParallel(model) if ranks > 1 else model
    # Rank 1 has nothing to learn from: everything is of a novel class.
    nothing = {**scene(), "classes": torch.tensor([2])}
    batches = [[nothing], [nothing]] if rank else [[scene((0, 0, 0, 24))], [scene((1, 8, 8, 32))]]
    Trainer(network, batches, torch.optim.SGD(trained_parameters(model), lr=0.1)).train(0, 2)
    torch.save(model.state_dict(), f"{folder}/rank{rank}of{ranks}.pth")


def test_two_ranks_train_together(config, tmp_path):
    launch(_train, (config, 2, str(tmp_path)), device="cpu", ranks_per_machine=2)
    one, other = (torch.load(tmp_path / f"rank{rank}of2.pth", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = build(config).state_dict()
    assert any(not torch.equal(one[name], start[name]) for name in one)


def test_training_samples_are_those_of_evaluation(monkeypatch):
    monkeypatch.setattr(PanopticMapper, "__call__", lambda self, record: {"record": record})
    assert SegmentMapper()("a record", np.random.default_rng(0)) == {"record": "a record"}
