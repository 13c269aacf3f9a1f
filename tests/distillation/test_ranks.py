from itertools import pairwise

import pytest
import torch

from clipself_d2.engine.launch import launch
from tests.distillation import named, tiny
from tests.distillation.tiny import STEPS, write_model


@pytest.fixture(scope="module", params=[tiny, named], ids=["CLIPSelf", "RegionText"])
def states(request, tmp_path_factory):
    """Student after every step: of one process, of one that accumulates, and of each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    model = write_model(folder)
    named.write_rows(folder)
    for ranks in (1, 2):
        launch(request.param.train_shares, (model, ranks, str(folder)), device="cpu", ranks_per_machine=ranks)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pth")}


def test_ranks_hold_identical_weights_after_every_step(states):
    for accumulate in (1, 2):
        both = [states[f"rank{rank}of2x{accumulate}"] for rank in (0, 1)]
        assert len(both[0]) == len(STEPS)
        for one, other in zip(*both, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("other", ["rank0of2x1", "rank0of1x2", "rank0of2x2"])
def test_halves_of_the_batch_match_the_whole(states, other):
    whole, halves = states["rank0of1x1"], states[other]
    for step, (one, two) in enumerate(zip(whole, halves, strict=True)):
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=2e-6, msg=lambda m, s=step: f"{s}: {m}")


def test_steps_change_the_weights_but_for_the_empty_one(states):
    whole = states["rank0of1x1"]
    moved = [any(not torch.equal(after[name], before[name]) for name in after) for before, after in pairwise(whole)]
    assert moved == [any(counts) for counts in STEPS[1:]]
