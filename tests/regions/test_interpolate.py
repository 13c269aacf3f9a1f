import pytest
import torch
import torch.nn.functional as F

from clipself_d2.regions.interpolate import interpolate_in_chunks


@pytest.mark.parametrize("limit", [2**26, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunks_are_the_resize_of_the_whole(limit, dtype, monkeypatch):
    monkeypatch.setattr("clipself_d2.regions.interpolate._MAX_ELEMENTS", limit)
    maps = torch.rand(5, 6, 7).to(dtype)
    chunks = list(interpolate_in_chunks(maps, (20, 15)))
    assert len(chunks) == (1 if limit > 1 else 20)
    assert [row for rows, _ in chunks for row in range(20)[rows]] == list(range(20))
    expected = F.interpolate(maps.float()[None], (20, 15), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.cat([chunk for _, chunk in chunks], dim=1), expected, rtol=0, atol=1e-6)
