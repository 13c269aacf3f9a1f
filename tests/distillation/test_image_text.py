from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from clipself_d2.clip import build_image_tower
from clipself_d2.distillation import ImageText
from clipself_d2.engine.launch import launch
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import letterbox
from tests.distillation import captioned
from tests.distillation.captioned import STEPS, build, sample
from tests.distillation.tiny import perturb


@pytest.fixture
def batch():
    return [sample(i) for i in range(4)]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def naive_loss(model: ImageText, batch) -> tuple[float, float]:
    """Image by image, probability by probability: the loss, and how many images find their caption."""
    images, texts = [], []
    for x in batch:
        pixels, _ = letterbox([x["image"]], model.student_size)
        images.append(model.tower.image_embeddings(model.tower.normalize(pixels))[0])
        texts.append(model.text_tower([x["caption"]])[0])
    scale = model.text_tower.logit_scale.exp()
    total, found = 0.0, 0
    for i in range(len(batch)):
        of_image = torch.stack([scale * F.cosine_similarity(images[i], text, dim=0) for text in texts])
        of_text = torch.stack([scale * F.cosine_similarity(image, texts[i], dim=0) for image in images])
        total -= 0.5 * (of_image.softmax(0)[i].log() + of_text.softmax(0)[i].log()).item()
        found += int(of_image.argmax() == i)
    return total / len(batch), found / len(batch)


def test_the_loss_is_clips(model_file, batch):
    model = perturb(build(model_file))
    with EventStorage() as storage:
        loss = model(batch)
    expected, accuracy = naive_loss(model, batch)
    assert loss.keys() == {"loss_image_text"}
    assert loss["loss_image_text"].item() == pytest.approx(expected, abs=1e-5)
    assert storage.latest()["caption_accuracy"][0] == accuracy
    assert model.num_loss_items(batch) == 4


def test_one_pair_has_nothing_to_be_told_from(model_file, batch):
    assert build(model_file)(batch[:1])["loss_image_text"].item() == 0


def test_all_of_the_last_blocks_learns_and_the_text_does_not(model_file, batch):
    model = build(model_file, trainable_blocks=2)
    model(batch)["loss_image_text"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".resblocks.1." in name or ".resblocks.2." in name for name in trained)
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (name in trained), name
    fused = dict(model.named_parameters())["tower.visual.transformer.resblocks.2.attn.in_proj_weight"]
    assert all(part.any() for part in fused.grad.chunk(3))  # queries, keys, values
    assert all(p.grad is None and not p.requires_grad for p in model.text_tower.parameters())


def test_the_text_tower_is_aside_and_follows_the_device(model_file):
    model = build(model_file).train()
    assert model.state_dict().keys() == {f"tower.{name}" for name in model.tower.state_dict()}
    assert not {id(p) for p in model.text_tower.parameters()} & {id(p) for p in model.parameters()}
    assert not model.text_tower.training
    assert model.to(torch.float64).text_tower.logit_scale.dtype == torch.float64
    assert build(model_file).to("meta").text_tower.logit_scale.device.type == "meta"


def test_training_lowers_the_loss_and_touches_the_student_alone(model_file, batch):
    model = build(model_file)
    text, initial = state(model.text_tower), state(model.teacher)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(batch)["loss_image_text"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for module, before in ((model.text_tower, text), (model.teacher, initial)):
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_image_without_a_caption_takes_no_part(model_file, batch):
    model = perturb(build(model_file))
    more = [sample(7, captioned=False), *batch, {**sample(8), "caption": ""}]
    assert model.num_loss_items(more) == 4
    torch.testing.assert_close(model(more), model(batch))


def test_images_without_captions_give_a_zero_that_reaches_every_parameter(model_file):
    model = build(model_file)
    loss = model([sample(0, captioned=False)])["loss_image_text"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_a_caption_is_cut_where_the_context_ends(model_file, batch):
    model = build(model_file)
    start = "cat " * 75  # and the two marks of start and end: the 77 tokens of the context
    longer, shorter = model.embed_captions([start + "dog " * 50, start, "cat"])[:2], model.embed_captions(["cat"])
    assert torch.isfinite(longer).all()
    torch.testing.assert_close(longer[0], longer[1])
    torch.testing.assert_close(model.embed_captions([start + "dog " * 50, "cat"])[1:], shorter)
    assert torch.isfinite(model([{**batch[0], "caption": start + "dog"}, batch[1]])["loss_image_text"])


def test_evaluation_embeds_boxes_of_the_dense_map(model_file):
    model = perturb(build(model_file, alpha=0.5)).eval()
    image, boxes = sample(5)["image"], torch.tensor([[2.0, 3, 30, 35], [5, 5, 38, 20]])
    with model.ensembled_weights(), torch.no_grad():
        [out] = model([{"image": image, "boxes": Boxes(boxes)}])
        expected = model.embed_regions([image], [boxes])
        changed = state(model.tower)
    torch.testing.assert_close(out["boxes"], expected, rtol=1e-4, atol=1e-5)
    before, student = state(model.teacher), state(model.tower)
    for name, value in changed.items():
        torch.testing.assert_close(value, 0.5 * student[name] + 0.5 * before[name])


def test_bf16_stays_close(model_file, batch):
    model = perturb(build(model_file))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)["loss_image_text"]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(model(batch)["loss_image_text"].item(), abs=0.05)


def test_checkpointed_activations_give_the_same_gradients(model_file, batch):
    grads = []
    for enabled in (False, True):
        model = perturb(build(model_file, activation_checkpointing=enabled))
        model(batch)["loss_image_text"].backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*grads)


def test_towers_of_two_clips_are_refused(model_file, tmp_path):
    text = build(model_file).text_tower
    text.embed_dim = 24
    with pytest.raises(InputError, match="embeddings of 16, the text tower of 24") as caught:
        ImageText(build_image_tower(model_file, None), text, 64)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def runs(model_file, tmp_path_factory):
    """States and losses of one process and of each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (1, 2):
        launch(captioned.train_share, (model_file, ranks, str(folder)), device="cpu", ranks_per_machine=ranks)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pth")}


def test_ranks_share_their_negatives(runs):
    """Two ranks with uneven halves of a batch, or nothing, do as one process with the whole."""
    whole, *halves = runs["rank0of1"], runs["rank0of2"], runs["rank1of2"]
    torch.testing.assert_close(halves[0]["losses"], whole["losses"], rtol=1e-4, atol=1e-5)
    for step in range(len(STEPS)):
        for name, value in whole["states"][step].items():
            assert torch.equal(halves[0]["states"][step][name], halves[1]["states"][step][name])
            torch.testing.assert_close(halves[0]["states"][step][name], value, rtol=1e-4, atol=2e-6)


def test_steps_change_the_weights_but_for_the_empty_one(runs):
    states = runs["rank0of1"]["states"]
    moved = [any(not torch.equal(after[name], before[name]) for name in after) for before, after in pairwise(states)]
    assert moved == [any(flags) for flags in STEPS[1:]]
