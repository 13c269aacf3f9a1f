"""In a training step the host waits for the (simulated) GPU once: for the logged scalars."""

import warnings
from contextlib import contextmanager

import pytest
import torch

from clipself_d2.engine.trainer import StepStorage, Trainer
from tests.distillation import captioned, named, tiny
from tests.second_device import HostWaits, SecondDevice


@contextmanager
def warnings_of_pytorch():
    """On a GPU: PyTorch's warnings of waits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def run_step(model, batch, listen=HostWaits):
    """Run two steps -> what `listen` heard of waits in the second, and what was logged.

    Tables are computed and moments made in the first.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    trainer = Trainer(model, [batch, batch], optimizer)
    model.train()
    with StepStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
        trainer.storage.step()
        with listen() as waits:
            trainer.run_step()
        latest = trainer.storage.latest()
    return waits, {name for name, (_, iteration) in latest.items() if iteration == 1}


def check(lines, logged, *names):
    assert {*names, "total_loss", "grad_norm"} <= logged
    assert len(lines) == 1 and "numbers = " in lines[0], lines


@pytest.mark.parametrize("options", [{}, {"skip_padding": False}, {"multiscale": (32, 64)}])
def test_clipself(tmp_path, options):
    with SecondDevice():
        model = tiny.build(tiny.write_model(tmp_path), **options).to("cuda")
        waits, logged = run_step(model, [tiny.sample(0, 3), tiny.sample(1, 0), tiny.sample(2, 5)])
    check(waits.lines, logged, "cosine")


def test_region_text(tmp_path):
    with SecondDevice():
        model = named.build(tiny.write_model(tmp_path), named.write_rows(tmp_path)).to("cuda")
        waits, logged = run_step(model, [named.sample(0, 3), named.sample(2, 5)])
    check(waits.lines, logged, "noun_accuracy")


def test_image_text(tmp_path):
    with SecondDevice():
        model = captioned.build(tiny.write_model(tmp_path)).to("cuda")
        waits, logged = run_step(model, [captioned.sample(0), captioned.sample(1)])
    check(waits.lines, logged, "caption_accuracy")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    model = tiny.build(tiny.write_model(tmp_path)).to("cuda")
    batch = [{**tiny.sample(i, i), "image": tiny.sample(i, i)["image"].pin_memory()} for i in range(3)]
    waits, _ = run_step(model, batch, warnings_of_pytorch)
    assert sum("synchronizing" in str(warning.message) for warning in waits) == 1, [str(w.message) for w in waits]
