"""Tables 5 and A2: semantic segmentation, by CAT-Seg and without any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clipself_d2.reproduce.entries.runs import MINIATURE, OPENAI_B, OPENAI_L, notes
from clipself_d2.reproduce.plan import COMPARED
from clipself_d2.reproduce.table import Row, Run, Table

_METRICS = {"mIoU": "sem_seg.mIoU", "mAcc": "sem_seg.mACC"}
_PARTS = {"mIoU seen": "sem_seg.mIoU_seen", "mIoU novel": "sem_seg.mIoU_novel"}
# Area below the ROC curve, of two patches of ...
_COHERENCE = {"same object": "object", "same class": "class", "same class, two images": "class_across"}
_TOWERS = dict(zip(COMPARED, (None, MINIATURE), strict=True))

# mIoU of CAT-Seg before CLIPSelf: that of CAT-Seg's first version, whose numbers later ones do not share.
_BEFORE = {
    "openai_b16": {"ADE-150": 27.2, "ADE-847": 8.4, "PC-59": 57.5},
    "openai_l14_336": {"ADE-150": 31.5, "ADE-847": 10.8, "PC-59": 62.0},
}
# What the configs evaluate after training, and the overrides for the others.
_DATA = {
    "ADE-150": (),
    "ADE-847": ("dataloader.test.dataset=ade20k_847_val_sem_seg",),
    "PC-59": ("dataloader.test.dataset=pascal_context_59_val_sem_seg",),
}
_MODELS = {"openai_b16": ("OpenAI B/16", OPENAI_B), "openai_l14_336": ("OpenAI L/14-336", OPENAI_L)}

# Ways to segment by the dense map and text alone: the overrides of each.
_WAYS = {
    "MaskCLIP": (),
    "MaskCLIP, map twice as fine": ("model.finer=2",),
    "PACL's score of the image besides": ("model.scoring=patch_weighted",),
    "ordinary last block": ("model.dense_mode=full",),
}

ZERO_SHOT = Run("miniature/zero_shot_semantic.py", trains=False)
CAT_SEG = Run("miniature/cat_seg.py")


def table_5(scale: str) -> Table:
    """CAT-Seg on the tower before and after CLIPSelf; in the miniature above what text alone gives."""
    note = (
        "The paper's CAT-Seg is the first version, with a second backbone; ours is the one that was released. On "
        "ADE-150 CLIPSelf adds 1.8 to 3.0 to it; the rest of its row is not known to us."
    )
    if scale == "miniature":
        columns = {**_METRICS, **_PARTS}
        metrics = tuple(columns.values())
        rows = []
        for method, run in (("zero-shot", ZERO_SHOT), ("CAT-Seg", CAT_SEG)):
            for tower, trained in _TOWERS.items():
                label, known = f"{method}, {tower}", (method, tower) == ("CAT-Seg", "original")
                paper = (_BEFORE["openai_b16"]["ADE-150"], None, None, None) if known else ()
                theirs = "OpenAI B/16, ADE-150: CAT-Seg, original" if known else ""
                rows.append(Row(label, replace(run, tower=trained), metrics, paper, theirs, _key(label)))
    else:
        columns = _METRICS
        rows = [row for tower in _BEFORE for row in _published(tower)]
    title = "Semantic segmentation before and after CLIPSelf"
    return Table("5", scale, title, "method, tower", tuple(columns), tuple(rows), notes(scale, note), "segmentations")


def table_a2(scale: str) -> Table:
    """What a dense map holds: how like the patches of one object are, and what text alone finds in it."""
    columns = {**_COHERENCE, **_METRICS}
    rows = []
    for name, (probed, segmented) in _untrained(scale).items():
        for dense_mode, title in (("no_attn", "last block without attention"), ("full", "ordinary last block")):
            for tower in COMPARED:
                areas = (f"auc.{tower}, {dense_mode}.{relation}" for relation in _COHERENCE.values())
                rows.append(Row(f"{name}coherence, {title}, {tower}", probed, (*areas, *_empty(_METRICS))))
        for way, overrides in _WAYS.items():
            for tower, run in zip(COMPARED, segmented, strict=True):
                metrics = (*_empty(_COHERENCE), *_METRICS.values())
                rows.append(Row(f"{name}segmentation, {way}, {tower}", replace(run, overrides=overrides), metrics))
    note = (
        "What the paper's table A2 shows is not known to us: these are ways to look at a dense map that nothing was "
        "trained on. Same object, same class: the area below the ROC curve of two patches' likeness; 50 is chance."
    )
    title = "What the dense map tells, untrained"
    return Table("A2", scale, title, "way, tower", tuple(columns), tuple(rows), notes(scale, note), "coherence")


def _untrained(scale: str) -> dict[str, tuple[Run, tuple[Run, Run]]]:
    """By what a label begins with: the coherence of two towers, and the segmentation by either."""
    if scale == "miniature":
        return {"": (MINIATURE.probed("ov_shapes_val_panoptic"), (ZERO_SHOT, replace(ZERO_SHOT, tower=MINIATURE)))}
    runs = {}
    for model, (name, distilled) in _MODELS.items():
        config = f"semantic/zero_shot_{model}_ade20k"
        after = Run(f"{config}_clipself_patches.py", trains=False, tower=distilled)
        runs[f"{name}: "] = (
            distilled.probed("coco_2017_val_panoptic_ov"),
            (Run(f"{config}.py", trains=False), after),
        )
    return runs


def _empty(columns: Mapping[str, str]) -> tuple[str, ...]:
    return ("",) * len(columns)


def _published(tower: str) -> list[Row]:
    name, distilled = _MODELS[tower]
    config = f"semantic/cat_seg_{tower}_coco_stuff"
    trainings = {"original": Run(f"{config}.py"), "CLIPSelf": Run(f"{config}_clipself_patches.py", tower=distilled)}
    return [
        Row(
            f"{name}, {data}: {kind}",
            run.evaluated(*overrides) if overrides else run,
            tuple(_METRICS.values()),
            (_BEFORE[tower][data] if kind == "original" else None, None),
        )
        for data, overrides in _DATA.items()
        for kind, run in trainings.items()
    ]


def _key(label: str) -> str:
    return label.lower().replace(",", "").replace(" ", "_").replace("-", "_")
