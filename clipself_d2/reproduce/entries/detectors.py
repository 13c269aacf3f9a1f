"""Tables 3, 4 and A3 to A6: open-vocabulary detection with F-ViT."""

from __future__ import annotations

from collections.abc import Mapping

from clipself_d2.reproduce.entries.runs import (
    EVA_B,
    EVA_B_LVIS,
    EVA_B_PROPOSALS,
    EVA_L,
    EVA_L_LVIS,
    EVA_L_PROPOSALS,
    MINIATURE,
    MINIATURE_DETECTOR,
    MINIATURE_PROPOSALS,
    OPENAI_B,
    OPENAI_L,
    detector,
    notes,
)
from clipself_d2.reproduce.table import Cell, Row, Run, Table

_AP50 = {"novel": "bbox.AP50_novel", "base": "bbox.AP50_base", "all": "bbox.AP50_all"}
_AP = {"AP novel": "bbox.AP_novel", "AP base": "bbox.AP_base", "AP": "bbox.AP"}
_MASK_AP = {"rare": "segm.APr", "common": "segm.APc", "frequent": "segm.APf", "all": "segm.AP"}
_TRANSFER = {name: f"bbox.{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}

# Paper, tables 3 and A3 to A6: AP50 of novel, base and all classes; mask AP of rare, common, frequent and all classes.
_EVA_B = {"original": (17.5, 41.0, 34.9), "patches": (33.6, 54.2, 48.8), "proposals": (37.6, 54.9, 50.4)}
_EVA_L = {"original": (24.7, 53.6, 46.0), "patches": (38.4, 60.6, 54.8), "proposals": (44.3, 64.1, 59.0)}
_OPENAI_B = {"original": (16.0, 36.9, 31.4), "patches": (29.8, 46.9, 42.5)}
_OPENAI_L = {"original": (9.2, 44.3, 35.2), "patches": (31.3, 49.2, 44.6)}
_LVIS_B = {"original": (11.5, 12.3, 20.6, 15.4), "patches": (25.3, 21.8, 29.1, 25.2)}
_LVIS_L = {"original": (24.2, 27.9, 31.5, 28.7), "patches": (34.9, 34.6, 35.6, 35.1)}


def table_3a(scale: str) -> Table:
    """OV-COCO."""
    return _ov_coco("3a", scale, _AP50)


def table_a5(scale: str) -> Table:
    """OV-COCO, with AP over IoU 0.5 to 0.95, which the paper does not print."""
    return _ov_coco("A5", scale, {**_AP50, **_AP})


def table_3b(scale: str) -> Table:
    """OV-LVIS, rare classes."""
    return _ov_lvis("3b", scale, ("rare",))


def table_a6(scale: str) -> Table:
    """OV-LVIS, all classes."""
    return _ov_lvis("A6", scale, tuple(_MASK_AP))


def table_4(scale: str) -> Table:
    """Transfer of the detector of OV-LVIS to other data sets."""
    trained = detector("eva02_l14_336", "ovlvis", "patches", EVA_L_LVIS)
    rows = tuple(
        Row(
            name,
            Run(f"detection/fvit_eva02_l14_336_transfer_{file}.py", trains=False, model=trained),
            metrics,
            paper,
        )
        for name, file, paper, metrics in (
            ("COCO", "coco", (40.5, 63.8, 44.3, 26.8, 44.6, 53.8), tuple(_TRANSFER.values())),
            ("Objects365 v1", "objects365", (19.5, 31.3, 20.7, 9.7, 23.2, 35.5), tuple(_TRANSFER.values())),
        )
    )
    title = "Transfer of the detector of OV-LVIS, EVA-02 L/14-336 with patches"
    return Table("4", scale, title, "data set", tuple(_TRANSFER), rows)


def table_a3(scale: str) -> Table:
    """The detector's design, on the tower of CLIPSelf with patches."""
    here = {
        "simple pyramid, last block": ("a3_simple_pyramid", _MINIATURE_SIMPLE, (23.1, 46.6, 40.4)),
        "FPN, last block": ("a3_last_block", ("model.backbone.blocks=[5,5]",), (26.5, 47.0, 41.6)),
        "FPN, intermediate blocks": ("clipself_patches", (), _EVA_B["patches"]),
        "the same, tower trains, lr x 0.01": ("a3_backbone_lr001", _trained(0.01), (31.1, 56.6, 49.9)),
        "the same, tower trains, lr x 0.1": ("a3_backbone_lr01", _trained(0.1), (21.8, 58.6, 48.8)),
    }
    rows = []
    for label, (file, overrides, paper) in here.items():
        run = Run(f"detection/fvit_eva02_b16_ovcoco_{file}.py", tower=EVA_B)
        if scale == "miniature":
            run = Run(MINIATURE_DETECTOR.config, overrides, tower=MINIATURE)
        rows.append(Row(label, run, tuple(_AP50.values()), paper))
    title = f"Design of the detector: AP50 on {_data(scale)}, after CLIPSelf with patches"
    return Table("A3", scale, title, "pyramid", tuple(_AP50), tuple(rows), notes(scale))


def table_a4(scale: str) -> Table:
    """OV-COCO with OpenAI's CLIP."""
    rows = [
        *_rows("OpenAI B/16", _AP50, _trainings("openai_b16", "ovcoco", patches=OPENAI_B), _OPENAI_B),
        *_rows("OpenAI L/14-336", _AP50, _trainings("openai_l14_336", "ovcoco", patches=OPENAI_L), _OPENAI_L),
    ]
    note = "The paper's recipe for OpenAI's models is not released."
    return Table("A4", scale, "AP50 on OV-COCO with OpenAI's CLIP", "tower", tuple(_AP50), tuple(rows), note)


_MINIATURE_SIMPLE = (
    "model.backbone.blocks=[5]",
    "model.backbone.pyramid._target_=clipself_d2.backbones.SimplePyramid",
    "model.backbone.pyramid.norm=LN",
)


def _data(scale: str) -> str:
    return "OV-Shapes" if scale == "miniature" else "OV-COCO"


def _trained(factor: float) -> tuple[str, ...]:
    """Overrides of the miniature's detector: the tower trains too, at a part of the learning rate."""
    return (
        "model.backbone.trainable=true",
        "optimizer.params.lr=${optimizer.lr}",
        f"optimizer.params.lr_factors={{backbone.trained_tower: {factor}}}",
    )


def _trainings(model: str, data: str, **towers: Run) -> dict[str, Run]:
    """Detectors on the untouched tower and on those of CLIPSelf."""
    trained = {kind: detector(model, data, kind, tower) for kind, tower in towers.items()}
    return {"original": detector(model, data), **trained}


def _rows(
    tower: str,
    columns: dict[str, str],
    runs: dict[str, Run],
    paper: Mapping[str, tuple[float, ...]],
    theirs: str = "",
    keys: dict[str, str] | None = None,
) -> list[Row]:
    rows = []
    for name, run in runs.items():
        numbers: tuple[Cell, ...] = (*paper[name], *(None,) * (len(columns) - len(paper[name])))
        label = theirs and f"{theirs}: {name}"
        rows.append(
            Row(f"{tower}: {name}", run, tuple(columns.values()), numbers, label, key=(keys or {}).get(name, ""))
        )
    return rows


def _ov_coco(name: str, scale: str, columns: dict[str, str]) -> Table:
    if scale == "miniature":
        runs = {
            "original": MINIATURE_DETECTOR,
            "patches": Run(MINIATURE_DETECTOR.config, tower=MINIATURE),
            "proposals": Run(MINIATURE_DETECTOR.config, tower=MINIATURE_PROPOSALS),
        }
        keys = {"original": "original", "patches": "clipself_patches", "proposals": "clipself_proposals"}
        rows = _rows("OV-Shapes", columns, runs, _EVA_B, "EVA-02 B/16", keys)
    else:
        base = _trainings("eva02_b16", "ovcoco", patches=EVA_B, proposals=EVA_B_PROPOSALS)
        large = _trainings("eva02_l14_336", "ovcoco", patches=EVA_L, proposals=EVA_L_PROPOSALS)
        rows = [*_rows("EVA-02 B/16", columns, base, _EVA_B), *_rows("EVA-02 L/14-336", columns, large, _EVA_L)]
    title = f"F-ViT on {_data(scale)} before and after CLIPSelf, AP50"
    return Table(name, scale, title, "tower", tuple(columns), tuple(rows), notes(scale))


def _ov_lvis(name: str, scale: str, columns: tuple[str, ...]) -> Table:
    chosen = {column: _MASK_AP[column] for column in columns}
    rows = []
    for tower, model, run, paper in (
        ("EVA-02 B/16", "eva02_b16", EVA_B_LVIS, _LVIS_B),
        ("EVA-02 L/14-336", "eva02_l14_336", EVA_L_LVIS, _LVIS_L),
    ):
        known = {kind: dict(zip(_MASK_AP, numbers, strict=True)) for kind, numbers in paper.items()}
        numbers = {kind: tuple(values[column] for column in columns) for kind, values in known.items()}
        rows += _rows(tower, chosen, _trainings(model, "ovlvis", patches=run), numbers)
    return Table(name, scale, "F-ViT on OV-LVIS before and after CLIPSelf, mask AP", "tower", columns, tuple(rows))
