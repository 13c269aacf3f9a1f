"""Run lengths against pycocotools and a loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from clipself_d2.data.masks import check_segmentation, run_lengths
from clipself_d2.schema import RunLength


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(1, 8), st.integers(0, 99))
def test_run_lengths(height, width, density, size, seed):
    cells = np.random.default_rng(seed).random((height, width)) < density
    mask = np.asfortranarray(np.kron(cells, np.ones((size, size))).astype(np.uint8))
    runs = [len(list(group)) for _, group in itertools.groupby(mask.ravel(order="F").tolist())]
    wanted = [0] * bool(mask[0, 0]) + runs
    rle = coco_mask.encode(mask)
    assert run_lengths(rle["counts"]) == wanted
    for counts in (rle["counts"].decode(), wanted):
        checked = check_segmentation(RunLength(rle["size"], counts), *mask.shape)
        assert (coco_mask.decode(checked) == mask).all()


@pytest.mark.parametrize("counts", [b"", b"o", b"a b", b"\xff0", b"oooooooo0", b"0" * 5 + b"O"])
def test_what_is_no_run_length(counts):
    with pytest.raises(ValueError, match="no run lengths"):
        run_lengths(counts)
