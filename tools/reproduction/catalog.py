"""The tables by name: what each shows; `paper` and `miniature` have its rows."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from clipself_d2.errors import InputError
from reproduction import miniature, numbers, paper
from reproduction.tables import Columns, Table

SCALES = {"miniature": miniature, "paper": paper}
ALIASES = {"1": "fig1", "3": "fig3", "a1fig": "fig3", "figa1": "fig3"}


@dataclass(frozen=True)
class Entry:
    """What is the same at both scales; see `Table`."""

    title: str
    varies: str
    columns: Columns
    note: str = ""
    figure: str = ""


_AP50_TITLE = "F-ViT before and after CLIPSelf, AP50"
_MASK_TITLE = "F-ViT on OV-LVIS before and after CLIPSelf, mask AP"
_REGIONS_TITLE = "Region classification before and after CLIPSelf"
_OPENAI = "The paper's recipe for OpenAI's models is not released."
_NO_NUMBERS = "The paper prints no numbers with this figure."

ENTRIES = {
    "1a": Entry("Patches: largest number of rows and columns of the grid", "M", numbers.BOXES),
    "1b": Entry("Trainable blocks", "last blocks", numbers.BOXES),
    "1c": Entry("Student size, in training and in evaluation", "pixels", numbers.BOXES),
    "2": Entry(_REGIONS_TITLE, "tower", numbers.KINDS),
    "3a": Entry(_AP50_TITLE, "tower", numbers.AP50, figure="detections"),
    "3b": Entry(_MASK_TITLE, "tower", {"rare": numbers.MASK_AP["rare"]}),
    "4": Entry(
        "Transfer of the detector of OV-LVIS, after CLIPSelf with patches",
        "tower, data set",
        numbers.COCO_AP,
        "The paper's numbers of B/16 are not known.",
    ),
    "5": Entry(
        "Semantic segmentation before and after CLIPSelf",
        "method, tower",
        numbers.SEMANTIC,
        "The paper's CAT-Seg is the first version, with a second backbone; ours is the one that was released. The "
        "paper's mAcc, and its mIoU of B/16 after CLIPSelf on ADE-847 and PC-59, are not known.",
        "segmentations",
    ),
    "6": Entry(
        "Panoptic segmentation before and after CLIPSelf",
        "scores, tower",
        numbers.PANOPTIC,
        "Fusing the original tower's scores is expected to gain over the predicted scores alone.",
    ),
    "7": Entry(
        "Region-text training on pseudo pairs, and CLIPSelf, on the same proposals",
        "training",
        numbers.KINDS_TOP1 | numbers.AP50_OF_DETECTOR,
    ),
    "A1": Entry(
        "What a region is embedded by, in the untouched tower",
        "embedding",
        numbers.KINDS,
        "The paper's numbers of row 2 are those of its table 2; those of the other rows are not known.",
    ),
    "A2": Entry(f"{_REGIONS_TITLE} with patches, every CLIP", "tower", numbers.KINDS, _OPENAI),
    "A3": Entry("Design of the detector: AP50 after CLIPSelf with patches", "pyramid", numbers.AP50),
    "A4": Entry("AP50 on OV-COCO with OpenAI's CLIP", "tower", numbers.AP50, _OPENAI),
    "A5": Entry(_AP50_TITLE, "tower", numbers.AP50 | numbers.AP),
    "A6": Entry(_MASK_TITLE, "tower", numbers.MASK_AP),
    "fig1": Entry(
        "Image crops and the dense map: accuracy, and K-Means of the map before and after CLIPSelf",
        "embedding",
        numbers.BOXES,
        _NO_NUMBERS,
        "kmeans",
    ),
    "fig3": Entry(
        "Accuracy over the size of the input",
        "embedding, pixels",
        numbers.BOXES,
        f"{_NO_NUMBERS} Crops are always resized to the tower's native size.",
        "curves",
    ),
    "fig4": Entry(
        "K-Means of the dense map before and after CLIPSelf, held-out images",
        "tower",
        numbers.BOXES,
        _NO_NUMBERS,
        "kmeans",
    ),
    "coherence": Entry(
        "What the dense map tells, untrained",
        "way, tower",
        numbers.COHERENCE | numbers.SEMANTIC,
        "Not in the paper. Same object, same class: the area below the ROC curve of two patches' likeness; 50 is "
        "chance.",
        "coherence",
    ),
    "dense-modes": Entry(
        "Ways to read the dense map that need no training, before and after CLIPSelf",
        "task, mode, tower",
        numbers.KINDS_TOP1 | numbers.SEMANTIC,
        "Not in the paper, whose mode is no_attn. docs/region_classification.md names each mode's source.",
    ),
    "successors": Entry(
        "CLIPSelf and the objectives that came after it, at an equal number of steps",
        "task, objective",
        numbers.KINDS_TOP1 | numbers.AP50_OF_DETECTOR | numbers.MIOU,
        "Not in the paper. All trainings have the student size of CLIPSelf's; the time of a step differs, and "
        "results.json has the seconds of every run. docs/distillation.md says what of each method is here: R-SC is "
        "without its refiner, DenseRC without its gates.",
    ),
}


def names(scale: str) -> list[str]:
    """The tables that exist at a scale."""
    return [name for name in ENTRIES if name in SCALES[scale].ROWS]


def find(name: str, scale: str) -> Table:
    """A table.

    Args:
        name: of a table or an alias, whatever its case.
        scale: "miniature" or "paper".

    Raises:
        InputError: for an unknown name, with the known ones; for a table without a miniature.
    """
    known = {entry.lower(): entry for entry in ENTRIES}
    name = ALIASES.get(name.lower(), name.lower())
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {known[near[0]]}? " if near else ""
        raise InputError(f"table '{name}' is unknown: {hint}known are {', '.join(ENTRIES)}, or all")
    if scale not in SCALES:
        raise InputError(f"scale '{scale}' is unknown: use one of {', '.join(SCALES)}")
    entry, of_scale = ENTRIES[known[name]], SCALES[scale]
    name = known[name]
    if name not in of_scale.ROWS:
        raise InputError(f"table {name} has no miniature ({miniature.WITHOUT[name]}): add --scale paper")
    columns = of_scale.COLUMNS.get(name, entry.columns)
    note = " ".join(filter(None, (entry.note, of_scale.NOTES.get(name, ""), of_scale.NOTE)))
    return Table(name, scale, entry.title, entry.varies, columns, tuple(of_scale.ROWS[name]), note, entry.figure)
