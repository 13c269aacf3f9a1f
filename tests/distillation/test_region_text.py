"""Region-text training: the loss against a naive loop, the sampled classes, the export, and two runs of one seed."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.distillation import RegionText
from clipself_d2.distillation.region_text import sample_classes
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import letterbox
from clipself_d2.vocabulary import TextClassifier, save_text_embeddings
from tests.distillation.named import NOUNS, build, sample, write_rows
from tests.distillation.tiny import perturb


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("text"))


@pytest.fixture
def batch():
    return [sample(0, 3), sample(1, 0), sample(2, 1), sample(3, 6)]


def naive_loss(model, batch, classes) -> float:
    """Region by region and class by class: minus the log probability of what is so."""
    nouns, total, regions = model.embed_nouns()[0], 0.0, 0
    for x in batch:
        pixels, [scale] = letterbox([x["image"]], model.student_size)
        dense = model.tower.dense_embeddings(model.tower.normalize(pixels))
        for box, label in zip(x["regions"].tensor, x["classes"].tolist(), strict=True):
            rois = torch.cat([torch.zeros(1), box * scale / model.tower.stride])[None]
            feature = roi_align(dense, rois, output_size=(1, 1), sampling_ratio=-1, aligned=True).flatten()
            for k in classes:
                chance = 1 / (1 + math.exp(-20 * F.cosine_similarity(feature, nouns[k], dim=0).item()))
                total -= math.log(chance if k == label else 1 - chance)
            regions += 1
    return total / regions


def test_the_loss_is_a_sum_over_classes_and_a_mean_over_regions(model_file, rows, batch):
    model = perturb(build(model_file, rows, skip_padding=False))
    with EventStorage() as storage:
        loss = model(batch)
    assert loss.keys() == {"loss_region_text"}
    assert loss["loss_region_text"].item() == pytest.approx(naive_loss(model, batch, range(12)), rel=1e-4)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["regions_per_image"] == pytest.approx(10 / 3)
    assert 0 <= latest["noun_accuracy"] <= 1


def test_it_is_judged_on_the_sampled_classes_alone(model_file, rows, batch):
    model = perturb(build(model_file, rows, num_sampled=9, skip_padding=False))
    torch.manual_seed(3)
    loss = model(batch)["loss_region_text"].item()
    torch.manual_seed(3)
    classes, _ = sample_classes(torch.cat([x["classes"] for x in batch]), 12, 9)
    assert len(classes) == 9
    assert loss == pytest.approx(naive_loss(model, batch, classes.tolist()), rel=1e-4)


@given(st.lists(st.integers(0, 29), min_size=1, max_size=25), st.integers(1, 40), st.integers(0, 99))
def test_sampled_classes_hold_the_batchs_and_no_class_twice(labels, wanted, seed):
    torch.manual_seed(seed)
    labels = torch.tensor(labels)
    classes, columns = sample_classes(labels, 30, wanted)
    present = set(labels.tolist())
    assert len(set(classes.tolist())) == len(classes) == min(30, max(wanted, len(present)))
    assert present <= set(classes.tolist()) <= set(range(30))
    assert torch.equal(classes[columns], labels)


def test_other_classes_are_drawn_with_one_chance():
    torch.manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(3000):
        classes, _ = sample_classes(torch.tensor([2, 5, 2]), 10, 6)
        counts[classes] += 1
    assert counts[[2, 5]].tolist() == [3000, 3000]
    others = counts[[0, 1, 3, 4, 6, 7, 8, 9]] / 3000
    assert (others - 0.5).abs().max() < 0.05  # 4 of 8; a standard deviation is 0.009


def test_the_seed_decides_a_step(model_file, rows, batch):
    losses = []
    for _ in range(2):
        model = build(model_file, rows, num_sampled=10)
        torch.manual_seed(11)
        losses.append([model(batch)["loss_region_text"].item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 1  # each step draws anew


def test_it_learns_and_leaves_the_rest_alone(model_file, rows, batch):
    model = build(model_file, rows, trainable_blocks=2)
    initial = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if ".resblocks.1." in n or ".resblocks.2." in n
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(batch)["loss_region_text"]
        loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, initial[name]) for name, value in model.teacher.state_dict().items())


def test_images_without_regions_give_a_zero_that_reaches_every_parameter(model_file, rows):
    model, empty = build(model_file, rows), [sample(0, 0), sample(1, 0)]
    loss = model(empty)["loss_region_text"]
    loss.backward()
    assert loss.item() == 0 and model.num_loss_items(empty) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_nouns_and_the_text_tower_are_no_part_of_the_state(model_file, batch):
    torch.manual_seed(0)
    text = TextClassifier(build_text_tower(model_file, None), "photo")
    model = RegionText(build_image_tower(model_file, None), NOUNS, text, 64)
    assert model.noun_embeddings is None
    model(batch)
    torch.testing.assert_close(model.noun_embeddings, text(NOUNS))
    assert model.embed_nouns()[1] == pytest.approx(math.exp(text.tower.logit_scale.item()))
    assert all(name.startswith("tower.") for name in model.state_dict())
    assert len(list(model.parameters())) == len(list(model.tower.parameters()))
    assert model.to(torch.float64).noun_embeddings.dtype == torch.float64


def test_names_come_from_the_pairs_in_the_order_of_their_ids(model_file, rows, tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps({"categories": [{"id": 12 - k, "name": name} for k, name in enumerate(NOUNS)]}))
    by_name = tmp_path / "nouns.pt"
    vectors = F.normalize(torch.randn(12, 16), dim=1)
    save_text_embeddings(vectors, NOUNS, by_name)
    model = RegionText(build_image_tower(model_file, None), str(file), by_name, 64, temperature=1.0)
    torch.testing.assert_close(model.embed_nouns()[0], vectors.flip(0))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_what_is_exported_lies_between_the_initial_tower_and_the_trained(model_file, rows, alpha):
    model = perturb(build(model_file, rows, alpha=alpha))
    trained, initial = model.tower.state_dict(), model.teacher.state_dict()
    for name, value in model.ensembled_state_dict().items():
        torch.testing.assert_close(value, alpha * trained[name] + (1 - alpha) * initial[name])
    before = {name: value.clone() for name, value in trained.items()}
    with model.ensembled_weights():
        assert all(torch.equal(v, model.ensembled_state_dict()[n]) for n, v in model.tower.state_dict().items()) == (
            alpha in (0, 1)
        )
    assert all(torch.equal(value, before[name]) for name, value in model.tower.state_dict().items())


def test_evaluation_needs_no_nouns(model_file, tmp_path):
    model = RegionText(build_image_tower(model_file, None), tmp_path / "absent.json", "absent.npy", 64, temperature=1.0)
    x = sample(4, 3)
    [out] = model.eval()([{"image": x["image"], "boxes": x["regions"], "crop_boxes": x["crop_boxes"]}])
    assert {name: tuple(value.shape) for name, value in out.items()} == {"boxes": (3, 16), "crops": (3, 16)}
    with pytest.raises(InputError, match=r"absent\.json"):
        model.train()([x])


def test_bf16_stays_close(model_file, rows, batch):
    model = perturb(build(model_file, rows))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)["loss_region_text"]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(model(batch)["loss_region_text"].item(), rel=0.03)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"num_sampled": 0}, "num_sampled=0"), ({"temperature": None}, "temperature"), ({"alpha": 2.0}, "alpha=2.0")],
)
def test_wrong_values_are_said(model_file, rows, kwargs, message):
    with pytest.raises(InputError, match=message):
        build(model_file, rows, **kwargs)


def test_a_text_tower_of_another_clip_is_refused(model_file, batch):
    class Text:
        def __call__(self, names):
            return torch.zeros(len(names), 8)

    model = RegionText(build_image_tower(model_file, None), NOUNS, Text(), 64, temperature=1.0)
    with pytest.raises(InputError, match=r"embeddings of 8, the image tower's are of 16"):
        model(batch)
