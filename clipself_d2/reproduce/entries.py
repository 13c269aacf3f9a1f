"""The tables and figures that can be reproduced, as data. Numbers of the paper: arXiv 2310.01403, ICLR 2024."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from clipself_d2.errors import InputError
from clipself_d2.reproduce.table import Cell, Row, Run, Table

SCALES = ("miniature", "paper")

MINIATURE_ABLATION_STEPS = 200
"""Training steps of each row of tables 1a to 1c at the scale of the miniature; all else trains as its config says."""

MINIATURE = Run("miniature/clipself_patches.py")
EVA_B, EVA_L, OPENAI_B, OPENAI_L = (
    Run(f"distillation/clipself_{model}_coco_patches.py")
    for model in ("eva02_b16", "eva02_l14_336", "openai_b16", "openai_l14_336")
)
CNN = EVA_B.untouched(
    "clip.name=RN50x4", "clip.pretrained=openai", "model.teacher_size=null", "model.trainable_blocks=null"
)

_KINDS = {"boxes": "boxes", "thing_masks": "thing masks", "stuff_masks": "stuff masks"}
_LABORATORY = "The miniature shows effects and orderings, not the paper's values."


def find(name: str, scale: str) -> Table:
    """The entry of a table.

    Args:
        name: of an entry or an alias, whatever its case.
        scale: "miniature" or "paper".

    Raises:
        InputError: for an unknown name, with the known ones.
    """
    known = {entry.lower(): build for entry, build in ENTRIES.items()}
    name = ALIASES.get(name.lower(), name.lower())
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"table '{name}' is unknown: {hint}known are {', '.join(ENTRIES)}")
    if scale not in SCALES:
        raise InputError(f"scale '{scale}' is unknown: use one of {', '.join(SCALES)}")
    return known[name](scale)


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
    """Side of the student's image."""
    rows = [("320", 46.5), ("640", 67.1), ("1024", 72.1)]
    here = ("64", "96", "128") if scale == "miniature" else tuple(label for label, _ in rows)
    sizes = (
        _ablation(scale, f"model.student_size={n}", n, label, number)
        for n, (label, number) in zip(here, rows, strict=True)
    )
    return _ablated("1c", scale, "Student size, in training and in evaluation", "pixels", sizes)


def table_2(scale: str) -> Table:
    """Before and after CLIPSelf."""
    # top-1 and top-5 of boxes, thing masks and stuff masks
    eva_b = (18.2, 33.2, 20.6, 36.5, 18.4, 43.5), (72.1, 91.3, 74.4, 91.8, 46.8, 80.2)
    eva_l = (56.7, 78.0, 59.0, 79.8, 20.8, 41.9), (77.1, 93.3, 78.7, 93.7, 44.4, 78.3)
    openai_b = (29.3, 51.6, 33.5, 56.0, 25.9, 50.9), (67.4, 88.4, 69.4, 88.5, 43.4, 76.9)
    openai_l = (21.4, 45.9, 28.3, 52.0, 11.8, 27.9), (68.9, 89.6, 70.0, 88.0, 35.5, 71.5)
    metrics, columns = _top1_and_top5(_KINDS)
    towers: list[tuple[str, str, Run, tuple[tuple[Cell, ...], tuple[Cell, ...]]]] = [
        ("EVA-02 B/16", "", EVA_B, eva_b),
        ("EVA-02 L/14-336", "", EVA_L, eva_l),
        ("OpenAI B/16", "", OPENAI_B, openai_b),
        ("OpenAI L/14-336", "", OPENAI_L, openai_l),
    ]
    if scale == "miniature":
        towers = [("OV-Shapes", "EVA-02 B/16", MINIATURE, eva_b)]
    rows = []
    for tower, theirs, run, (before, after) in towers:
        rows.append(Row(f"{tower}: original", run.untouched(), metrics, before, theirs and f"{theirs}: original"))
        rows.append(Row(f"{tower}: patches", run, metrics, after, theirs and f"{theirs}: patches"))
    note = "The rows with region proposals need a detector's proposals and come with the detector."
    return Table(
        "2",
        scale,
        "Region classification before and after CLIPSelf",
        "tower",
        columns,
        tuple(rows),
        _notes(scale, note),
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
        Row("dense map, ordinary last block", run.untouched("model.mode=full"), metrics),
        Row("class token that attends to the region alone", run.untouched("model.mode=masked"), metrics),
    )
    note = "The paper's numbers of row 2 are those of its table 2; those of the other rows are not known to us."
    return Table(
        "A1",
        scale,
        "What a region is embedded by, in the untouched tower",
        "embedding",
        columns,
        rows,
        _notes(scale, note),
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
        "3",
        scale,
        "Accuracy over the size of the input",
        "embedding, pixels",
        ("boxes top-1",),
        tuple(rows),
        _notes(scale, note),
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
        "4",
        scale,
        "K-Means of the dense map before and after CLIPSelf, held-out photographs",
        "tower",
        ("boxes top-1",),
        rows,
        _notes(scale, "The paper prints no numbers with this figure."),
        "kmeans",
    )


ENTRIES: dict[str, Callable[[str], Table]] = {
    "1a": table_1a,
    "1b": table_1b,
    "1c": table_1c,
    "2": table_2,
    "A1": table_a1,
    "3": figure_3,
    "4": figure_4,
}
ALIASES = {"a1fig": "3", "fig3": "3", "figa1": "3", "fig4": "4"}


def _ablation(scale: str, override: str, label: str, paper_label: str, paper: Cell) -> Row:
    steps = (f"train.max_iter={MINIATURE_ABLATION_STEPS}",) if scale == "miniature" else ()
    config = (MINIATURE if scale == "miniature" else EVA_B).config
    theirs = paper_label if paper is not None and paper_label != label else ""
    return Row(label, Run(config, (*steps, override)), ("boxes.top1",), (paper,), theirs)


def _ablated(name: str, scale: str, title: str, varies: str, rows: Iterable[Row]) -> Table:
    steps = f"{MINIATURE_ABLATION_STEPS} steps a row." if scale == "miniature" else ""
    return Table(name, scale, title, varies, ("boxes top-1",), tuple(rows), _notes(scale, steps))


def _top1_and_top5(kinds: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics and headings."""
    pairs = [(f"{task}.top{k}", f"{title} top-{k}") for task, title in kinds.items() for k in (1, 5)]
    return tuple(metric for metric, _ in pairs), tuple(title for _, title in pairs)


def _notes(scale: str, note: str) -> str:
    return " ".join(filter(None, (note, _LABORATORY if scale == "miniature" else "")))
