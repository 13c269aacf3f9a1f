import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from clipself_d2.distillation import CLIPSelf
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import crop_and_resize, letterbox
from tests.distillation.tiny import build, perturb, sample


@pytest.fixture
def batch():
    return [sample(0, 3), sample(1, 0), sample(2, 1), sample(3, 6)]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def naive_cosines(model: CLIPSelf, batch) -> list[float]:
    """Region by region: a crop through the teacher, a box from the student's map of its image alone."""
    cosines = []
    for x in batch:
        pixels, [scale] = letterbox([x["image"]], model.student_size)
        dense = model.tower.dense_embeddings(model.tower.normalize(pixels))
        for box, crop in zip(x["regions"].tensor, x["crop_boxes"].tensor, strict=True):
            rois = torch.cat([torch.zeros(1), box * scale / model.tower.stride])[None]
            student = roi_align(dense, rois, output_size=(1, 1), sampling_ratio=-1, aligned=True).flatten()
            pixels = crop_and_resize(x["image"], crop[None], model.teacher_size)
            teacher = model.teacher.image_embeddings(model.teacher.normalize(pixels))[0]
            cosines.append(F.cosine_similarity(student, teacher, dim=0).item())
    return cosines


def test_loss_is_one_minus_the_mean_cosine_over_regions(model_file, batch):
    model = perturb(build(model_file, skip_padding=False))
    with EventStorage() as storage:
        loss = model(batch)
    cosines = naive_cosines(model, batch)
    assert len(cosines) == 10
    assert loss.keys() == {"loss_clipself"}
    assert loss["loss_clipself"].item() == pytest.approx(1 - sum(cosines) / 10, abs=1e-5)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["cosine"] == pytest.approx(sum(cosines) / 10, abs=1e-5)
    assert latest["regions_per_image"] == pytest.approx(10 / 3)


def test_only_the_last_blocks_learn_and_all_of_them(model_file, batch):
    model = build(model_file, trainable_blocks=2)
    model(batch)["loss_clipself"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".resblocks.1." in name or ".resblocks.2." in name for name in trained)
    for name, p in model.named_parameters():
        # DistributedDataParallel without a search for unused parameters needs a gradient of every trainable one.
        assert (p.grad is not None) == (name in trained), name
    assert all(p.grad is None for p in model.teacher.parameters())


def test_the_teacher_is_hidden_frozen_and_follows_the_device(model_file):
    model = build(model_file)
    teacher = {id(p) for p in model.teacher.parameters()}
    assert not teacher & {id(p) for p in model.parameters()}
    assert all(name.startswith("tower.") for name in model.state_dict())
    assert len(model.state_dict()) == len(model.tower.state_dict())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    model.train()
    assert not model.teacher.training
    assert not any(module is model.teacher for module in model.modules())
    model.to(torch.float64)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    moved = build(model_file).to("meta")
    assert {p.device.type for p in moved.teacher.parameters()} == {"meta"}
    assert moved.teacher.pixel_mean.device.type == "meta"


def test_training_leaves_the_teacher_as_it_was(model_file, batch):
    model = build(model_file)
    before = state(model.teacher)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(batch)["loss_clipself"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert equal(state(model.teacher), before)
    assert not equal(state(model.tower), before)


@pytest.mark.parametrize("empty", [[sample(0, 0)], [sample(0, 0), sample(1, 0)]])
def test_images_without_regions_give_a_zero_that_reaches_every_parameter(model_file, empty):
    model = build(model_file)
    loss = model(empty)["loss_clipself"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_an_image_without_regions_changes_nothing(model_file, batch):
    model = perturb(build(model_file))
    full = [x for x in batch if len(x["regions"])]
    assert model.num_loss_items(batch) == model.num_loss_items(full) == 10
    torch.testing.assert_close(model(batch), model(full))


def test_multiscale_draws_from_its_sizes(model_file, batch, monkeypatch):
    model = build(model_file, student_size=96, multiscale=(32, 64), skip_padding=False)
    seen = []
    features = model.tower.features

    def spy(pixels, *args, **kwargs):
        seen.append(tuple(pixels.shape[-2:]))
        return features(pixels, *args, **kwargs)

    monkeypatch.setattr(model.tower, "features", spy)
    for seed in range(12):
        torch.manual_seed(seed)
        assert torch.isfinite(model(batch)["loss_clipself"])
    assert set(seen) == {(32, 32), (64, 64)}


def test_multiscale_at_the_students_size_is_no_change(model_file, batch):
    plain, scaled = build(model_file), build(model_file, multiscale=(64,))
    torch.testing.assert_close(plain(batch), scaled(batch))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95, 1.0])
def test_export_interpolates_between_teacher_and_student(model_file, alpha):
    model = perturb(build(model_file, alpha=alpha))
    student, teacher = state(model.tower), state(model.teacher)
    exported = model.ensembled_state_dict()
    assert exported.keys() == student.keys()
    assert all(name.startswith("visual.") for name in exported)
    for name, value in exported.items():
        torch.testing.assert_close(value, alpha * student[name] + (1 - alpha) * teacher[name])
    if alpha in (0.0, 1.0):
        assert equal(exported, student if alpha else teacher)


def test_exported_swaps_and_restores_to_the_bit(model_file):
    model = perturb(build(model_file, alpha=0.3))
    student, exported = state(model.tower), copy.deepcopy(model.ensembled_state_dict())
    with pytest.raises(RuntimeError), model.ensembled_weights() as inside:
        assert inside is model
        assert equal(state(model.tower), exported)
        raise RuntimeError
    assert equal(state(model.tower), student)


def test_evaluation_embeds_boxes_masks_and_crops(model_file):
    model = perturb(build(model_file)).eval()
    x = sample(5, 4)
    mask = torch.zeros(1, *x["image"].shape[1:], dtype=torch.bool)
    mask[0, :20, :20] = True
    [out] = model([{"image": x["image"], "boxes": x["regions"], "masks": mask, "crop_boxes": x["crop_boxes"]}])
    with torch.no_grad():
        boxes = model.embed_regions([x["image"]], [x["regions"].tensor])
    torch.testing.assert_close(out["boxes"], boxes, rtol=1e-4, atol=1e-5)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "boxes": (4, 16), "masks": (1, 16), "crops": (4, 16),
    }  # fmt: skip


def test_masked_attention_can_be_evaluated_but_not_trained(model_file):
    model = build(model_file, dense_mode="masked")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    # The class token of a region that is the whole image is the image's own.
    [out] = model.eval()([{"image": image, "boxes": Boxes(torch.tensor([[0.0, 0, 64, 64]]))}])
    with torch.no_grad():
        whole = F.normalize(model.tower.image_embeddings(model.tower.normalize(image[None])), dim=1)
    torch.testing.assert_close(out["boxes"], whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="masked"):
        model.train()([sample(5, 4)])


def test_bf16_stays_close(model_file, batch):
    model = perturb(build(model_file))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)["loss_clipself"]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(model(batch)["loss_clipself"].item(), abs=0.02)


def test_checkpointed_activations_give_the_same_gradients(model_file, batch):
    grads = []
    for enabled in (False, True):
        model = perturb(build(model_file, activation_checkpointing=enabled))
        model(batch)["loss_clipself"].backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"student_size": 100}, "student_size=100: not a multiple of the tower's stride 8; try 96"),
        ({"multiscale": (64, 65)}, "multiscale=65: not a multiple"),
        ({"student_size": 0}, "student_size=0: not a multiple"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"trainable_blocks": 4}, "3 blocks"),
        ({"dense_mode": "vlue"}, "vlue"),
    ],
)
def test_wrong_values_are_said(model_file, kwargs, message):
    with pytest.raises(InputError, match=message) as caught:
        build(model_file, **kwargs)
    assert "\n" not in str(caught.value)
