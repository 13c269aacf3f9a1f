from itertools import pairwise

import pytest
import torch

from clipself_d2.engine.launch import launch
from tests.detection.tiny import STEPS, train_share


@pytest.mark.slow
def test_two_ranks_hold_equal_weights(tmp_path):
    """Synchronized batch norms and gradients, also where a rank has no objects."""
    for rank in (0, 1):
        (tmp_path / f"rank{rank}").mkdir()
    launch(train_share, (str(tmp_path),), device="cpu", ranks_per_machine=2)
    one, two = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert len(one) == len(two) == len(STEPS)
    for mine, theirs in zip(one, two, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    weights = "roi_heads.mask_head.predictor.weight"
    moved = [not torch.equal(after[weights], before[weights]) for before, after in pairwise(one)]
    assert moved == [True, True, False, True]  # the fourth batch has no object
