"""Tables 1a to 2 and A1, figures 3, 4 and A1: how well a tower tells regions, before and after CLIPSelf."""

from __future__ import annotations

from collections.abc import Iterable

from clipself_d2.reproduce.entries.runs import (
    EVA_B,
    EVA_B_PROPOSALS,
    EVA_L,
    IMAGE_TEXT_B,
    MINIATURE,
    MINIATURE_IMAGE_TEXT,
    MINIATURE_PROPOSALS,
    OPENAI_B,
    OPENAI_L,
    notes,
)
from clipself_d2.reproduce.table import Cell, Row, Run, Table

MINIATURE_ABLATION_STEPS = 200
"""Training steps of each row of tables 1a to 1c at the scale of the miniature; all else trains as its config says."""

CNN = EVA_B.untouched(
    "clip.name=RN50x4", "clip.pretrained=openai", "model.teacher_size=null", "model.trainable_blocks=null"
)

_KINDS = {"boxes": "boxes", "thing_masks": "thing masks", "stuff_masks": "stuff masks"}


def table_1a(scale: str) -> Table:
    """M of the grid that patches are drawn from."""
    reported: dict[object, float] = {4: 71.3, 6: 72.1, 8: 71.6, 10: 70.0}
    values = (2, 4, 6, 8) if scale == "miniature" else (4, 6, 8, 10)
    key = "dataloader.train.mapper.regions.max_split"
    rows = (_ablation(scale, f"{key}={m}", str(m), str(m), reported.get(m)) for m in values)
    return _ablated("1a", scale, "Patches: largest number of rows and columns of the grid", "M", rows)


def table_1b(scale: str) -> Table:
    """How many of the last blocks train."""
    rows = [("3", 45.0), ("6", 59.4), ("9", 68.7), ("12", 72.1)]
    here = ("1", "2", "4", "6") if scale == "miniature" else tuple(label for label, _ in rows)
    blocks = (
        _ablation(scale, f"model.trainable_blocks={n}", n, label, number)
        for n, (label, number) in zip(here, rows, strict=True)
    )
    return _ablated("1b", scale, "Trainable blocks", "last blocks", blocks)


def table_1c(scale: str) -> Table:
    """Side of the student's image; and the largest one with captions of whole images instead of distillation."""
    rows = [("320", 46.5), ("640", 67.1), ("1024", 72.1)]
    here = ("64", "96", "128") if scale == "miniature" else tuple(label for label, _ in rows)
    sizes = [
        _ablation(scale, f"model.student_size={n}", n, label, number)
        for n, (label, number) in zip(here, rows, strict=True)
    ]
    captions = MINIATURE_IMAGE_TEXT if scale == "miniature" else IMAGE_TEXT_B
    label = f"{here[-1]}, image-text pairs"
    last = _ablation(scale, f"model.student_size={here[-1]}", label, "1024, image-text pairs", 52.3, captions)
    return _ablated("1c", scale, "Student size, in training and in evaluation", "pixels", [*sizes, last])


def table_2(scale: str) -> Table:
    """Before and after CLIPSelf."""
    # top-1 and top-5 of boxes, thing masks and stuff masks: original, patches, proposals
    eva_b = (
        (18.2, 33.2, 20.6, 36.5, 18.4, 43.5),
        (72.1, 91.3, 74.4, 91.8, 46.8, 80.2),
        (74.0, 92.6, 76.3, 92.8, 36.8, 75.0),
    )
    eva_l = (56.7, 78.0, 59.0, 79.8, 20.8, 41.9), (77.1, 93.3, 78.7, 93.7, 44.4, 78.3)
    openai_b = (29.3, 51.6, 33.5, 56.0, 25.9, 50.9), (67.4, 88.4, 69.4, 88.5, 43.4, 76.9)
    openai_l = (21.4, 45.9, 28.3, 52.0, 11.8, 27.9), (68.9, 89.6, 70.0, 88.0, 35.5, 71.5)
    metrics, columns = _top1_and_top5(_KINDS)
    towers: list[tuple[str, str, tuple[Run, ...], tuple[tuple[Cell, ...], ...]]] = [
        ("EVA-02 B/16", "", (EVA_B.untouched(), EVA_B, EVA_B_PROPOSALS), eva_b),
        ("EVA-02 L/14-336", "", (EVA_L.untouched(), EVA_L), eva_l),
        ("OpenAI B/16", "", (OPENAI_B.untouched(), OPENAI_B), openai_b),
        ("OpenAI L/14-336", "", (OPENAI_L.untouched(), OPENAI_L), openai_l),
    ]
    if scale == "miniature":
        runs = MINIATURE.untouched(), MINIATURE, MINIATURE_PROPOSALS
        towers = [("OV-Shapes", "EVA-02 B/16", runs, eva_b)]
    rows = [
        Row(f"{tower}: {name}", run, metrics, numbers, theirs and f"{theirs}: {name}")
        for tower, theirs, runs, reported in towers
        for name, run, numbers in zip(("original", "patches", "proposals"), runs, reported, strict=False)
    ]
    return Table(
        "2", scale, "Region classification before and after CLIPSelf", "tower", columns, tuple(rows), notes(scale)
    )


def table_a1(scale: str) -> Table:
    """What a region of the untouched tower is embedded by."""
    run = MINIATURE if scale == "miniature" else EVA_B
    metrics, columns = _top1_and_top5(_KINDS)
    crops = ("crops.top1", "crops.top5", "", "", "", "")
    value = run.untouched()
    rows = (
        Row("image crop (the teacher)", value, crops),
        Row("dense map, last block without attention", value, metrics, (18.2, 33.2, 20.6, 36.5, 18.4, 43.5)),
        Row("dense map, ordinary last block", run.untouched("model.dense_mode=full"), metrics),
        Row("class token that attends to the region alone", run.untouched("model.dense_mode=masked"), metrics),
    )
    note = "The paper's numbers of row 2 are those of its table 2; those of the other rows are not known to us."
    return Table(
        "A1",
        scale,
        "What a region is embedded by, in the untouched tower",
        "embedding",
        columns,
        rows,
        notes(scale, note),
    )


def figure_3(scale: str) -> Table:
    """Accuracy over the size of the input."""
    run = MINIATURE if scale == "miniature" else EVA_B
    sizes = (64, 96, 128, 160, 192) if scale == "miniature" else (224, 320, 448, 640, 832, 1024)
    crops, boxes = ("crops.top1",), ("boxes.top1",)
    before = {size: run.untouched(f"model.student_size={size}") for size in sizes}
    rows = [Row("image crops", before[sizes[0]], crops, series="image crops")]
    curves = [("dense map, before", before)]
    curves.append(("dense map, after", {size: run.exported(f"model.student_size={size}") for size in sizes}))
    if scale == "paper":
        cnn = {size: CNN.untouched(f"model.student_size={size}") for size in sizes}
        rows.append(Row("image crops, RN50x4", cnn[sizes[0]], crops, series="image crops, RN50x4"))
        curves.append(("dense map, RN50x4", cnn))
    rows += [Row(f"{name}, {s}", point, boxes, series=name, x=s) for name, runs in curves for s, point in runs.items()]
    note = "The paper draws this figure and prints no numbers. Crops are always resized to the tower's native size."
    return Table(
        "fig3",
        scale,
        "Accuracy over the size of the input",
        "embedding, pixels",
        ("boxes top-1",),
        tuple(rows),
        notes(scale, note),
        "curves",
    )


def figure_4(scale: str) -> Table:
    """K-Means of the dense map."""
    run = MINIATURE if scale == "miniature" else EVA_B
    rows = (
        Row("before", run.untouched(), ("boxes.top1",), series="before"),
        Row("after", run, ("boxes.top1",), series="after"),
    )
    return Table(
        "fig4",
        scale,
        "K-Means of the dense map before and after CLIPSelf, held-out photographs",
        "tower",
        ("boxes top-1",),
        rows,
        notes(scale, "The paper prints no numbers with this figure."),
        "kmeans",
    )


def _ablation(scale: str, override: str, label: str, paper_label: str, paper: Cell, run: Run | None = None) -> Row:
    steps = (f"train.max_iter={MINIATURE_ABLATION_STEPS}",) if scale == "miniature" else ()
    config = (run or (MINIATURE if scale == "miniature" else EVA_B)).config
    theirs = paper_label if paper is not None and paper_label != label else ""
    return Row(label, Run(config, (*steps, override)), ("boxes.top1",), (paper,), theirs)


def _ablated(name: str, scale: str, title: str, varies: str, rows: Iterable[Row]) -> Table:
    steps = f"{MINIATURE_ABLATION_STEPS} steps a row." if scale == "miniature" else ""
    return Table(name, scale, title, varies, ("boxes top-1",), tuple(rows), notes(scale, steps))


def _top1_and_top5(kinds: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics and headings."""
    pairs = [(f"{task}.top{k}", f"{title} top-{k}") for task, title in kinds.items() for k in (1, 5)]
    return tuple(metric for metric, _ in pairs), tuple(title for _, title in pairs)
