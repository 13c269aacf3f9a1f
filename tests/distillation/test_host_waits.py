"""In a training step the host waits for the (simulated) GPU once: for the logged scalars."""

import pytest
import torch

from clipself_d2.engine.trainer import StepStorage, Trainer
from tests.distillation import captioned, named, tiny
from tests.second_device import HostWaits, SecondDevice


def run_step(model, batch):
    """The lines at which a second step waits: tables are computed and moments made in the first."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    trainer = Trainer(model, [batch, batch], optimizer)
    model.train()
    with StepStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
        trainer.storage.step()
        with HostWaits() as waits:
            trainer.run_step()
        latest = trainer.storage.latest()
    return waits.lines, {name for name, (_, iteration) in latest.items() if iteration == 1}


def check(lines, logged, *names):
    assert {*names, "total_loss", "grad_norm"} <= logged
    assert len(lines) == 1 and "numbers = " in lines[0], lines


@pytest.mark.parametrize("options", [{}, {"skip_padding": False}, {"multiscale": (32, 64)}])
def test_clipself(tmp_path, options):
    with SecondDevice():
        model = tiny.build(tiny.write_model(tmp_path), **options).to("cuda")
        lines, logged = run_step(model, [tiny.sample(0, 3), tiny.sample(1, 0), tiny.sample(2, 5)])
    check(lines, logged, "cosine")


def test_region_text(tmp_path):
    with SecondDevice():
        model = named.build(tiny.write_model(tmp_path), named.write_rows(tmp_path)).to("cuda")
        lines, logged = run_step(model, [named.sample(0, 3), named.sample(2, 5)])
    check(lines, logged, "noun_accuracy")


def test_image_text(tmp_path):
    with SecondDevice():
        model = captioned.build(tiny.write_model(tmp_path)).to("cuda")
        lines, logged = run_step(model, [captioned.sample(0), captioned.sample(1)])
    check(lines, logged, "caption_accuracy")
