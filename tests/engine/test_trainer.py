from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipself_d2.engine.errors import NonFiniteLossError
from clipself_d2.engine.trainer import Trainer, split, step_seed
from tests.engine.toy import ToyLoader, ToyModel, sample


def make(loader=None, noise=0.0, optimizer=torch.optim.SGD, **kwargs) -> Trainer:
    torch.manual_seed(1)
    model = ToyModel(noise)
    loader = ToyLoader(5, seed=0) if loader is None else loader
    return Trainer(model, loader, optimizer(model.parameters(), lr=0.05), **kwargs)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).clone()


def test_a_step_is_that_of_plain_gradient_descent():
    trainer = make()
    reference = ToyModel()
    reference.load_state_dict(trainer.model.state_dict())
    trainer.train(0, 1)
    loss = reference([sample(i) for i in range(5)])["loss_fit"]
    loss.backward()
    expected = torch.cat([(p - 0.05 * p.grad).flatten() for p in reference.parameters()])
    torch.testing.assert_close(weights(trainer), expected)
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(loss.item(), rel=1e-6)
    norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(norm.item(), rel=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 5, 8])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
    whole, chunked = make(), make(accumulate=parts)
    whole.train(0, 4)
    chunked.train(0, 4)
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=1e-5, atol=1e-6)


def test_resumed_in_the_middle_repeats_the_random_numbers():
    whole = make(noise=1.0)
    whole.train(0, 6)
    half = make(noise=1.0)
    half.train(0, 3)
    torch.randn(1000)  # whatever happens between
    resumed = make(ToyLoader(5, seed=0, start_iter=3), noise=1.0)
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.train(3, 6)
    assert torch.equal(weights(resumed), weights(whole))


def test_seeds_differ_by_every_part():
    seeds = {step_seed(s, i, r) for s in range(3) for i in range(10) for r in range(4)}
    assert len(seeds) == 120
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_a_number_stops_before_the_weights_change(where):
    class Broken(ToyModel):
        def forward(self, inputs):
            total = super().forward(inputs)["loss_fit"]
            # The square root of 0 is finite, its gradient is not.
            bad = (self.linear.weight * 0).sum().sqrt() if where == "gradient" else total * float("nan")
            return {"loss_fit": total + bad}

    model = Broken()
    before = model.linear.weight.clone()
    trainer = Trainer(model, ToyLoader(3, seed=0, start_iter=4), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train(4, 6)
    assert "iteration 4" in str(caught.value)
    assert "[12, 13, 14]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.linear.weight, before)


def test_samples_without_loss_items_are_legal():
    empty = {"image_id": 1, "points": torch.zeros(0, 3)}
    alone, among = make(iter([[sample(0)]])), make(iter([[sample(0), empty]]), accumulate=2)
    alone.train(0, 1)
    among.train(0, 1)
    torch.testing.assert_close(weights(among), weights(alone))
    nothing = make(iter([[empty], [empty]]))
    before = weights(nothing)
    nothing.train(0, 2)
    assert torch.equal(weights(nothing), before)


def test_unreadable_images_are_logged():
    class Leaky(ToyLoader):
        num_unreadable = 0

        def __iter__(self):
            for batch in super().__iter__():
                self.num_unreadable += 2
                yield batch

    trainer = make(Leaky(5, seed=0))
    trainer.train(0, 3)
    assert trainer.storage.history("unreadable_images").values() == [(2, 0), (4, 1), (6, 2)]


def test_clipping_bounds_the_step():
    trainer = make(clip_grad_norm=0.01)
    before = weights(trainer)
    trainer.train(0, 1)
    assert (weights(trainer) - before).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_precisions_differ_only_by_rounding():
    results = {}
    for precision in ("fp32", "bf16", "fp16"):
        trainer = make(precision=precision)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=128, enabled=precision == "fp16")
        seen = []
        trainer.model.linear.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.dtype))
        trainer.train(0, 3)
        results[precision] = weights(trainer)
        expected = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        assert set(seen) == {expected}
    torch.testing.assert_close(results["bf16"], results["fp32"], rtol=0.05, atol=0.05)
    torch.testing.assert_close(results["fp16"], results["fp32"], rtol=0.01, atol=0.01)


def test_fp16_overflow_skips_the_step_and_lowers_the_scale():
    class Huge(ToyModel):
        def forward(self, inputs):
            return {"loss_fit": super().forward(inputs)["loss_fit"].float() * 1e30}

    model = Huge()
    before = model.linear.weight.clone()
    trainer = Trainer(model, ToyLoader(3, seed=0), torch.optim.SGD(model.parameters(), lr=0.1), precision="fp16")
    scale = trainer.grad_scaler.get_scale()
    trainer.train(0, 1)
    assert torch.equal(model.linear.weight, before)
    assert trainer.grad_scaler.get_scale() < scale


def test_scaler_state_is_restored():
    trainer = make(precision="fp16")
    trainer.train(0, 1)
    trainer.grad_scaler.update(128.0)
    other = make(precision="fp16")
    other.load_state_dict(trainer.state_dict())
    assert other.grad_scaler.state_dict() == trainer.grad_scaler.state_dict()


def test_losses_are_added_up_and_logged():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, inputs):
            return {"loss_a": self.weight, "loss_b": 3 * self.weight}

    model = Two()
    trainer = Trainer(model, iter([[{}]]), torch.optim.SGD(model.parameters(), lr=1.0))
    trainer.train(0, 1)
    assert model.weight.item() == -2.0
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert (latest["loss_a"], latest["loss_b"], latest["total_loss"]) == (2.0, 6.0, 8.0)


@given(st.integers(1, 40), st.integers(1, 12))
def test_split_keeps_order_and_balance(length, parts):
    batch = [{"i": i} for i in range(length)]
    chunks = split(batch, parts)
    assert len(chunks) == min(parts, length)
    assert [x for chunk in chunks for x in chunk] == batch
    lengths = sorted(map(len, chunks))
    assert lengths[0] >= 1 and lengths[-1] - lengths[0] <= 1
    assert all(a <= b for a, b in pairwise(lengths))


def test_the_state_of_something_else_is_no_scaler(tmp_path):
    trainer = make(precision="fp16")
    state = trainer.state_dict()
    with pytest.raises(ValueError, match="gradient scaler"):
        trainer.load_state_dict({**state, "grad_scaler": {"scale": "high"}})
