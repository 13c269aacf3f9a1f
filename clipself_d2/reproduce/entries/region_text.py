"""Table 7: CLIPSelf against the training on pseudo pairs of region and noun, on the same proposals."""

from __future__ import annotations

from collections.abc import Mapping

from clipself_d2.reproduce.entries.runs import (
    EVA_B,
    EVA_B_PROPOSALS,
    EVA_L_PROPOSALS,
    MINIATURE,
    MINIATURE_PROPOSALS,
    MINIATURE_REGION_TEXT,
    REGION_TEXT_B,
    REGION_TEXT_L,
    detector,
    notes,
)
from clipself_d2.reproduce.table import Row, Run, Table

_ACCURACIES = {
    "boxes top-1": "boxes.top1",
    "thing masks top-1": "thing_masks.top1",
    "stuff masks top-1": "stuff_masks.top1",
}
_AP50 = {"AP50 novel": "bbox.AP50_novel", "AP50 base": "bbox.AP50_base", "AP50 all": "bbox.AP50_all"}

_Numbers = Mapping[str, tuple[float, ...]]
_REGIONS: _Numbers = {
    "original": (18.2, 20.6, 18.4),
    "region-text": (71.1, 73.7, 34.2),
    "CLIPSelf": (74.0, 76.3, 36.8),
}
_DETECTION_B: _Numbers = {"region-text": (34.4, 54.2, 49.0), "CLIPSelf": (37.6, 54.9, 50.4)}
_DETECTION_L: _Numbers = {"region-text": (38.7, 59.6, 54.1), "CLIPSelf": (44.3, 64.1, 59.0)}


def table_7(scale: str) -> Table:
    """Accuracy of regions and, at the scale of the paper, detection on the towers."""
    if scale == "miniature":
        columns = tuple(_ACCURACIES)
        runs = {
            "original": MINIATURE.untouched(),
            "region-text": MINIATURE_REGION_TEXT,
            "CLIPSelf": MINIATURE_PROPOSALS,
        }
        rows = _rows("OV-Shapes", runs, _ACCURACIES, _REGIONS, columns, "EVA-02 B/16")
    else:
        columns = (*_ACCURACIES, *_AP50)
        base = {"region-text": REGION_TEXT_B, "CLIPSelf": EVA_B_PROPOSALS}
        large = {"region-text": REGION_TEXT_L, "CLIPSelf": EVA_L_PROPOSALS}
        rows = [
            *_rows("EVA-02 B/16", {"original": EVA_B.untouched(), **base}, _ACCURACIES, _REGIONS, columns),
            *_rows("F-ViT on EVA-02 B/16", _detectors("eva02_b16", base), _AP50, _DETECTION_B, columns),
            *_rows("F-ViT on EVA-02 L/14-336", _detectors("eva02_l14_336", large), _AP50, _DETECTION_L, columns),
        ]
    title = "Pseudo pairs of region and noun, and CLIPSelf, on the same proposals"
    return Table("7", scale, title, "training", columns, tuple(rows), notes(scale))


def _detectors(model: str, towers: Mapping[str, Run]) -> dict[str, Run]:
    kinds = {"region-text": "", "CLIPSelf": "proposals"}
    return {name: detector(model, "ovcoco", kinds[name], tower) for name, tower in towers.items()}


def _rows(
    ours: str,
    runs: Mapping[str, Run],
    metrics: Mapping[str, str],
    paper: _Numbers,
    columns: tuple[str, ...],
    theirs: str = "",
) -> list[Row]:
    """Rows that fill the columns which have metrics."""
    rows = []
    for name, run in runs.items():
        known = dict(zip(metrics, paper[name], strict=True))
        numbers = tuple(known.get(column) for column in columns)
        filled = tuple(metrics.get(column, "") for column in columns)
        rows.append(
            Row(f"{ours}: {name}", run, filled, numbers, theirs and f"{theirs}: {name}", _key(name) if theirs else "")
        )
    return rows


def _key(name: str) -> str:
    return name.lower().replace("-", "_")
