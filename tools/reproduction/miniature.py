"""The tables' rows at the scale of the miniature: OV-Shapes and its CLIP."""

from __future__ import annotations

from collections.abc import Mapping

from reproduction import numbers
from reproduction.numbers import AP, AP50, KINDS, KINDS_TOP1, PANOPTIC, SEMANTIC
from reproduction.shared import (
    CROPS,
    FUSED_ABOVE,
    TRUE_MASKS,
    coherence,
    curves,
    dense_modes,
    designs,
    embeddings,
    scores,
    successors,
    towers,
)
from reproduction.tables import MASK_GENERATOR, PAIRS_FILE, PROPOSALS_FILE, Columns, Row, Run, keyed, rows_of

ABLATION_STEPS = 200
"""Training steps of each row of tables 1a and 1c; all else trains as its config says."""

PATCHES = Run("miniature/clipself_patches.py")
SHORT = PATCHES.having(f"train.max_iter={ABLATION_STEPS}")
DETECTOR = Run("miniature/fvit.py")
# There is no other network in the miniature that could propose regions.
PROPOSED = DETECTOR.taken_by("make_proposals", "--weights", "ov_shapes_train_images")
PROPOSALS = PATCHES.having("dataloader.train.mapper.regions=${proposals}").using(PROPOSALS_FILE, PROPOSED)
IMAGE_TEXT = Run("miniature/image_text.py")
REGION_TEXT = Run("miniature/region_text.py")
REGION_TEXT = REGION_TEXT.using(PAIRS_FILE, PROPOSED.taken_by("make_region_text", "--proposals", clip=REGION_TEXT))
MASKS = Run("miniature/panoptic_masks.py")
FOUND = Run("miniature/panoptic.py", trains=False).using(MASK_GENERATOR, MASKS)
TRUE = Run("miniature/panoptic.py", TRUE_MASKS, trains=False)
ZERO_SHOT = Run("miniature/zero_shot_semantic.py", trains=False)
CAT_SEG = Run("miniature/cat_seg.py")

SIZES = (64, 96, 128, 160, 192)
CURVES = {
    "dense map, before": {size: PATCHES.before(f"model.student_size={size}") for size in SIZES},
    "dense map, after": {size: PATCHES.after(f"model.student_size={size}") for size in SIZES},
}


def _varied(run: Run, key: str, known: Mapping[str, float], values: Mapping[str, str], own: str) -> tuple[Row, ...]:
    """An ablation: rows that differ in the value of one key.

    Args:
        run: the recipe.
        key: of its config.
        known: the paper's numbers by its values.
        values: ours, with the paper's.
        own: the config's.
    """
    return tuple(
        Row(
            value,
            run if value == own else run.having(f"{key}={value}"),
            (known.get(theirs),),
            "" if theirs == value else theirs,
        )
        for value, theirs in values.items()
    )


def _detectors(columns: Columns) -> tuple[Row, ...]:
    runs = towers(DETECTOR, patches=PATCHES, proposals=PROPOSALS)
    keys = {"original": "original", "patches": "clipself_patches", "proposals": "clipself_proposals"}
    return rows_of(runs, numbers.COCO_EVA_B, columns, name="OV-Shapes: ", theirs="EVA-02 B/16: ", keys=keys)


def _regions(runs: Mapping[str, Run]) -> tuple[Row, ...]:
    return rows_of(runs, numbers.REGIONS_EVA_B, KINDS, name="OV-Shapes: ", theirs="EVA-02 B/16: ")


def _segmentation() -> tuple[Row, ...]:
    """Table 5: what text alone gives, then CAT-Seg."""
    runs = {
        f"{method}, {tower}": run
        for method, each in (("zero-shot", ZERO_SHOT), ("CAT-Seg", CAT_SEG))
        for tower, run in towers(each, CLIPSelf=PATCHES).items()
    }
    known = {f"CAT-Seg, {tower}": (value,) for tower, value in numbers.CAT_SEG_OPENAI_B["ADE-150"].items()}
    return rows_of(runs, known, COLUMNS["5"], theirs="OpenAI B/16, ADE-150: ", keys=keyed(runs))


def _panoptic() -> tuple[Row, ...]:
    runs = scores(FOUND, TRUE, PATCHES)
    known, keys = numbers.PANOPTIC_ADE20K, keyed(runs)
    return rows_of(runs, known, COLUMNS["6"], theirs="ADE20K: ", keys=keys, above=FUSED_ABOVE)


def _trainings() -> tuple[Row, ...]:
    runs = {"original": PATCHES.before(), "region-text": REGION_TEXT, "CLIPSelf": PROPOSALS}
    known, columns = numbers.TEXT_REGIONS, KINDS_TOP1
    return rows_of(runs, known, columns, name="OV-Shapes: ", theirs="EVA-02 B/16: ", keys=keyed(runs))


COLUMNS: dict[str, Columns] = {
    "5": SEMANTIC | {"mIoU seen": "sem_seg.mIoU_seen", "mIoU novel": "sem_seg.mIoU_novel"},
    "6": PANOPTIC | {"PQ seen": "panoptic.PQ_seen", "PQ novel": "panoptic.PQ_novel"},
    "7": KINDS_TOP1,
}
ROWS: dict[str, tuple[Row, ...]] = {
    "1a": _varied(
        SHORT,
        "dataloader.train.mapper.regions.max_split",
        numbers.LARGEST_GRID,
        {size: size for size in numbers.LARGEST_GRID},
        own="6",
    ),
    # In full: after 200 steps four blocks are ahead of six.
    "1b": _varied(
        PATCHES, "model.trainable_blocks", numbers.BLOCKS, {"1": "3", "2": "6", "4": "9", "6": "12"}, own="6"
    ),
    "1c": (
        *_varied(
            SHORT, "model.student_size", numbers.STUDENT_SIZE, {"64": "320", "96": "640", "128": "1024"}, own="128"
        ),
        Row(
            "128, image-text pairs",
            IMAGE_TEXT.having(f"train.max_iter={ABLATION_STEPS}"),
            (numbers.IMAGE_TEXT,),
            "1024, image-text pairs",
        ),
    ),
    "2": _regions({"original": PATCHES.before(), "patches": PATCHES, "proposals": PROPOSALS}),
    "3a": _detectors(AP50),
    "5": _segmentation(),
    "6": _panoptic(),
    "7": _trainings(),
    "A1": embeddings(PATCHES, numbers.REGIONS_EVA_B["original"]),
    "A2": _regions({"original": PATCHES.before(), "patches": PATCHES}),
    "A3": rows_of(designs(DETECTOR.on(PATCHES), last=5, levels=2), numbers.DESIGNS, AP50),
    "A5": _detectors(AP50 | AP),
    "fig1": (
        Row("image crops", PATCHES.before(), metrics=CROPS),
        Row("dense map, before", PATCHES.before()),
        Row("dense map, after", PATCHES),
    ),
    "fig3": (
        Row("image crops", CURVES["dense map, before"][SIZES[0]], metrics=CROPS, series="image crops"),
        *curves(CURVES),
    ),
    "fig4": (Row("before", PATCHES.before()), Row("after", PATCHES)),
    "coherence": tuple(
        coherence(
            "",
            PATCHES.taken_by("probe_coherence", "--pretrained", "ov_shapes_val_panoptic"),
            towers(ZERO_SHOT, CLIPSelf=PATCHES),
        )
    ),
    "dense-modes": tuple(dense_modes("", PATCHES, ZERO_SHOT, "{_target_: clipself_d2.miniature.build_guide}")),
    "successors": tuple(successors("", PATCHES, DETECTOR, ZERO_SHOT)),
}
NOTE = "The miniature shows effects and orderings, not the paper's values."
NOTES = {
    **dict.fromkeys(("1a", "1c"), f"{ABLATION_STEPS} steps a row."),
    "6": "The masks are a small generator's that has learned the base classes alone, on the untouched tower. The "
    "paper's numbers are of ADE20K, not all of whose classes its generator has learned either.",
}
WITHOUT = {
    "3b": "OV-Shapes has no rare classes of its own; 3a is the same comparison",
    "4": "there is no second data set to transfer to; the K-Means figure is fig4",
    "A4": "there is one CLIP alone; 3a is the same comparison",
    "A6": "OV-Shapes has no rare classes of its own; A5 is the same comparison",
}
