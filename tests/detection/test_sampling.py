import pytest
import torch
from detectron2.modeling.sampling import subsample_labels
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.detection.sampling import sample_labels


@given(
    st.lists(st.sampled_from([1, 0, -1]), min_size=1, max_size=40),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_as_many_as_detectron2_draws(labels, count, fraction):
    labels = torch.tensor(labels, dtype=torch.int8)
    index, drawn = sample_labels(labels, count, fraction)
    assert len(index) == len(drawn) == min(len(labels), count)
    objects, background = subsample_labels(labels, count, fraction, 0)
    order = [1] * len(objects) + [0] * len(background)
    assert drawn.tolist() == order + [-1] * (len(drawn) - len(order))
    taken = index[: len(order)]
    assert len(set(taken.tolist())) == len(taken) and labels[taken].tolist() == order


def test_every_box_is_drawn_equally_often_and_each_row_by_itself():
    labels = torch.tensor([1] * 8 + [0] * 12 + [-1] * 5, dtype=torch.int8).repeat(4000, 1)
    index, drawn = sample_labels(labels, 10, 0.4)
    assert (drawn == torch.tensor([1] * 4 + [0] * 6)).all()
    shares = index.flatten().bincount(minlength=25) / len(labels)
    assert shares.tolist() == pytest.approx([0.5] * 20 + [0.0] * 5, abs=0.04)  # five standard deviations
    pairs = (index == 0).any(dim=1).float() @ (index == 1).any(dim=1).float() / len(labels)
    assert pairs.item() == pytest.approx(4 / 8 * 3 / 7, abs=0.04)


def test_nothing_to_draw_from():
    index, drawn = sample_labels(torch.zeros(0, dtype=torch.int8), 5, 0.5)
    assert index.shape == drawn.shape == (0,)
