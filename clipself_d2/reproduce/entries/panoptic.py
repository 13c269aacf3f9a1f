"""Table 6: panoptic segmentation by the scores of a mask generator, of CLIP, and of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clipself_d2.reproduce.entries.runs import MINIATURE, MINIATURE_MASKS, OPENAI_L, notes
from clipself_d2.reproduce.table import Cell, Row, Run, Table

_SCORES = {
    "predicted only": ("model.alpha=0", "model.beta=0"),
    "CLIP only": ("model.alpha=1", "model.beta=1"),
    "fused": (),
}
_METRICS = {"PQ": "panoptic.PQ", "mAP": "segm.AP", "mIoU": "sem_seg.mIoU"}
_PARTS = {"PQ seen": "panoptic.PQ_seen", "PQ novel": "panoptic.PQ_novel"}

# PQ, mAP and mIoU by scores and tower.
_Numbers = Mapping[tuple[str, str], tuple[Cell, Cell, Cell]]
_COCO: _Numbers = {
    ("CLIP only", "original"): (27.6, None, None),
    ("CLIP only", "CLIPSelf"): (35.1, None, None),
    ("fused", "original"): (45.3, 38.1, 52.3),
    ("fused", "CLIPSelf"): (45.7, None, None),
}
_ADE20K: _Numbers = {
    ("CLIP only", "original"): (15.3, None, None),
    ("CLIP only", "CLIPSelf"): (19.5, None, None),
    ("fused", "original"): (22.9, 13.4, 28.5),
    ("fused", "CLIPSelf"): (23.7, 13.6, 30.1),
}


def table_6(scale: str) -> Table:
    """Predicted only, CLIP only and fused, before and after CLIPSelf; and CLIP only with the masks of the truth."""
    columns = dict(_METRICS)
    if scale == "miniature":
        columns |= _PARTS
        found = {
            tower: Run("miniature/panoptic.py", trains=False, tower=run, masks=MINIATURE_MASKS)
            for tower, run in (("original", None), ("CLIPSelf", MINIATURE))
        }
        true = {
            tower: Run("miniature/panoptic_ground_truth.py", trains=False, tower=run)
            for tower, run in (("original", None), ("CLIPSelf", MINIATURE))
        }
        rows = _rows(columns, found, true, _ADE20K, theirs="ADE20K: ")
        note = (
            "The masks are a small generator's that has learned the base classes alone, on the untouched tower. The "
            "paper's numbers are of ADE20K, not all of whose classes its generator has learned either."
        )
    else:
        rows = []
        for data, file, numbers in (("COCO: ", "coco", _COCO), ("ADE20K: ", "ade20k", _ADE20K)):
            found, true = _published("odise_caption", file), _published("ground_truth", file)
            rows += _rows(columns, found, true, numbers, ours=data)
        note = (
            "The masks are of ODISE's caption model, saved beforehand (docs/panoptic.md). How the paper trains "
            "CLIPSelf on OpenAI's models, and the size of CLIP's input in this table, are not published."
        )
    title = "Panoptic segmentation before and after CLIPSelf"
    return Table("6", scale, title, "scores, tower", tuple(columns), tuple(rows), notes(scale, note))


def _published(masks: str, file: str) -> dict[str, Run]:
    config = f"panoptic/{masks}_openai_l14_336_{file}"
    return {
        "original": Run(f"{config}.py", trains=False),
        "CLIPSelf": Run(f"{config}_clipself_patches.py", trains=False, tower=OPENAI_L),
    }


def _rows(
    columns: Mapping[str, str],
    found: Mapping[str, Run],
    true: Mapping[str, Run],
    paper: _Numbers,
    ours: str = "",
    theirs: str = "",
) -> list[Row]:
    """Rows of a data set.

    Args:
        columns: metrics by heading.
        found: by the tower's name, the evaluation with the generator's masks.
        true: the same with the masks of the truth.
        paper: its numbers.
        ours: goes before our labels; those of a data set that has none have keys.
        theirs: goes before the paper's labels, where they are of other data.
    """
    metrics = tuple(columns.values())
    rows = []
    for scores, overrides in _SCORES.items():
        for tower, run in found.items():
            if scores == "predicted only" and tower != "original":
                continue  # CLIP has no say
            label = scores if scores == "predicted only" else f"{scores}, {tower}"
            known = paper.get((scores, tower), ())
            numbers = (*known, *(None,) * (len(metrics) - len(known))) if known else ()
            paper_label = f"{theirs}{label}" if theirs and known else ""
            key = "" if ours else _key(label)
            rows.append(Row(f"{ours}{label}", replace(run, overrides=overrides), metrics, numbers, paper_label, key))
    for tower, run in true.items():
        label = f"true masks, {tower}"
        rows.append(Row(f"{ours}{label}", run, metrics, key="" if ours else _key(label)))
    return rows


def _key(label: str) -> str:
    return label.lower().replace(",", "").replace(" ", "_")
