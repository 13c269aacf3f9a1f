"""A compiled run meets new shapes at every step, and compiles in its first steps alone."""

import json
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from clipself_d2.clip.frozen import compile_towers
from clipself_d2.engine.trainer import StepStorage, Trainer
from tests.detection.tiny import CONFIGS, RESNET
from tests.distillation import tiny


# Of one image and of several. Transformers share blocks: the teacher's, the student's first, whose input has no
# gradient, its others, and those of its evaluation. Sizes that are equal by chance count as one variable at first.
@pytest.mark.parametrize(("name", "most"), [("tiny-eva-14", 16), ("tiny-resnet", 6)])
def test_steps_with_any_images_and_crops_share_graphs(name, most, tmp_path, monkeypatch):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**CONFIGS, "tiny-resnet": RESNET}[name]))
    model = tiny.build(str(path), student_size=4 * (14 if name == "tiny-eva-14" else 32), teacher_size=None).train()
    graphs = CompileCounter()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs, fullgraph=True))
    batches = [[tiny.sample(2 * t, 1 + t % 7), tiny.sample(2 * t + 1, t * t % 5)] for t in range(20)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    trainer, counts = Trainer(model, batches, optimizer), []
    limits = torch._dynamo.config.patch(recompile_limit=8, optimize_ddp=True, fail_on_recompile_limit_hit=True)
    with limits, StepStorage(0) as trainer.storage:
        compile_towers(model)
        for trainer.iter in range(20):
            trainer.run_step()
            trainer.storage.step()
            counts.append(graphs.frame_count)
        with torch.inference_mode():
            for sample in batches[0]:
                model.embed_regions([sample["image"]], [sample["regions"].tensor])
    assert counts[4:] == counts[-1:] * 16, counts
    assert 0 < graphs.frame_count <= most, graphs.frame_count
