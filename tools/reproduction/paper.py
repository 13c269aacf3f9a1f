"""The tables' rows at the scale of the paper: published CLIPs, COCO, LVIS, Objects365 and ADE20K."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reproduction import numbers
from reproduction.numbers import AP, AP50, COCO_AP, KINDS, KINDS_TOP1, MASK_AP, PANOPTIC
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
from reproduction.tables import CHECKPOINT, PAIRS_FILE, PROPOSALS_FILE, Columns, Row, Run, rows_of

# What rows override.
LVIS = ("dataloader.train.dataset=lvis_v1_train_images", "train.max_iter=37566", "train.eval_period=6261")
ON_PROPOSALS = "dataloader.train.mapper.regions=${proposals}"
EVA_L_CLIP = ("clip.name=EVA02-L-14-336", "clip.pretrained=merged2b_s6b_b61k")
RN50X4 = ("clip.name=RN50x4", "clip.pretrained=openai", "model.teacher_size=null", "model.trainable_blocks=null")
OBJECTS365 = ("dataloader.test.dataset=objects365_v1_val", "model.roi_heads.alpha=0.3", "model.roi_heads.beta=0.3")
ADE20K = "dataloader.test.dataset=ade20k_val_panoptic_ov"
DINO = "{_target_: clipself_d2.distillation.TimmGuide, name: vit_base_patch8_224.dino, size: 512}"

# Towers.
EVA_B, EVA_L, OPENAI_B, OPENAI_L = (
    Run(f"distillation/clipself_{model}_coco_patches.py")
    for model in ("eva02_b16", "eva02_l14_336", "openai_b16", "openai_l14_336")
)
EVA_B_LVIS, EVA_L_LVIS = EVA_B.having(*LVIS), EVA_L.having(*LVIS)
PROPOSALS = Run("detection/rpn_r50_fpn_ovcoco.py").taken_by("make_proposals", "--weights", "coco_2017_train_images")
EVA_B_PROPOSALS, EVA_L_PROPOSALS = (run.having(ON_PROPOSALS).using(PROPOSALS_FILE, PROPOSALS) for run in (EVA_B, EVA_L))
IMAGE_TEXT = Run("distillation/image_text_eva02_b16_coco.py")
REGION_TEXT = Run("distillation/region_text_eva02_b16_coco.py")
REGION_TEXT_B, REGION_TEXT_L = (
    run.using(PAIRS_FILE, PROPOSALS.taken_by("make_region_text", "--proposals", clip=run))
    for run in (REGION_TEXT, REGION_TEXT.having(*EVA_L_CLIP, "model.student_size=896", "model.alpha=0.95"))
)

# Models on towers.
FVIT_EVA_B, FVIT_EVA_L, FVIT_OPENAI_B, FVIT_OPENAI_L = (
    Run(f"detection/fvit_{model}_ovcoco.py") for model in ("eva02_b16", "eva02_l14_336", "openai_b16", "openai_l14_336")
)
LVIS_EVA_B, LVIS_EVA_L = (Run(f"detection/fvit_{model}_ovlvis.py") for model in ("eva02_b16", "eva02_l14_336"))
TRANSFER_B, TRANSFER_L = (
    Run(f"detection/fvit_{model}_transfer.py", trains=False).on(tower).using(CHECKPOINT, detector.on(tower))
    for model, detector, tower in (
        ("eva02_b16", LVIS_EVA_B, EVA_B_LVIS),
        ("eva02_l14_336", LVIS_EVA_L, EVA_L_LVIS),
    )
)
CAT_SEG_B, CAT_SEG_L = (Run(f"semantic/cat_seg_{model}_coco_stuff.py") for model in ("openai_b16", "openai_l14_336"))
ZERO_SHOT_B = Run("semantic/zero_shot_openai_b16_ade20k.py", trains=False)
ZERO_SHOT_L = ZERO_SHOT_B.having("clip.name=ViT-L-14-336-quickgelu", "model.size=672")
ZERO_SHOT_EVA_B = ZERO_SHOT_B.having("clip.name=EVA02-B-16", "clip.pretrained=merged2b_s8b_b131k")
ODISE = Run("panoptic/odise_caption_openai_l14_336_coco.py", trains=False)
TRUE = Run("panoptic/fcclip_openai_l14_336_coco.py", TRUE_MASKS, trains=False)

SIZES = (224, 320, 448, 640, 832, 1024)
CNN = EVA_B.before(*RN50X4)
CURVES = {
    "dense map, before": {size: EVA_B.before(f"model.student_size={size}") for size in SIZES},
    "dense map, after": {size: EVA_B.after(f"model.student_size={size}") for size in SIZES},
    "dense map, RN50x4": {size: CNN.having(f"model.student_size={size}") for size in SIZES},
}


def _varied(run: Run, key: str, known: Mapping[str, float], own: str) -> Iterable[Row]:
    """An ablation: rows that differ in the value of one key; `own` is that of the config."""
    for value, number in known.items():
        yield Row(value, run if value == own else run.having(f"{key}={value}"), (number,))


def _regions(name: str, run: Run, known: numbers.Numbers, **more: Run) -> tuple[Row, ...]:
    return rows_of({"original": run.before(), "patches": run, **more}, known, KINDS, name=f"{name}: ")


def _ov_coco(columns: Columns) -> tuple[Row, ...]:
    base = towers(FVIT_EVA_B, patches=EVA_B, proposals=EVA_B_PROPOSALS)
    large = towers(FVIT_EVA_L, patches=EVA_L, proposals=EVA_L_PROPOSALS)
    return (
        *rows_of(base, numbers.COCO_EVA_B, columns, name="EVA-02 B/16: "),
        *rows_of(large, numbers.COCO_EVA_L, columns, name="EVA-02 L/14-336: "),
    )


def _ov_lvis(columns: Columns) -> tuple[Row, ...]:
    base, large = towers(LVIS_EVA_B, patches=EVA_B_LVIS), towers(LVIS_EVA_L, patches=EVA_L_LVIS)
    return (
        *rows_of(base, numbers.LVIS_EVA_B, columns, name="EVA-02 B/16: "),
        *rows_of(large, numbers.LVIS_EVA_L, columns, name="EVA-02 L/14-336: "),
    )


def _openai() -> tuple[Row, ...]:
    base, large = towers(FVIT_OPENAI_B, patches=OPENAI_B), towers(FVIT_OPENAI_L, patches=OPENAI_L)
    return (
        *rows_of(base, numbers.COCO_OPENAI_B, AP50, name="OpenAI B/16: "),
        *rows_of(large, numbers.COCO_OPENAI_L, AP50, name="OpenAI L/14-336: "),
    )


def _transfer(name: str, run: Run, known: numbers.Numbers) -> tuple[Row, ...]:
    return rows_of({"COCO": run, "Objects365 v1": run.having(*OBJECTS365)}, known, COCO_AP, name=f"{name}: ")


def _cat_seg(name: str, run: Run, distilled: Run, known: Mapping[str, Mapping[str, float]]) -> Iterable[Row]:
    """One training for each tower, evaluated on three data sets."""
    for data, dataset in {"ADE-150": "", "ADE-847": "ade20k_847", "PC-59": "pascal_context_59"}.items():
        for tower, trained in towers(run, CLIPSelf=distilled).items():
            evaluated = trained.evaluated(f"dataloader.test.dataset={dataset}_val_sem_seg") if dataset else trained
            yield Row(f"{name}, {data}: {tower}", evaluated, (known[data].get(tower), None))


def _panoptic(name: str, masks: str, known: numbers.Numbers, *overrides: str) -> tuple[Row, ...]:
    found = ODISE.having(*overrides, f"model.generator.folder=output/masks/{masks}")
    runs = scores(found, TRUE.having(*overrides), OPENAI_L)
    return rows_of(runs, known, PANOPTIC, name=f"{name}: ", above=FUSED_ABOVE)


def _trainings() -> Iterable[Row]:
    """Table 7: regions, then detection."""
    columns = KINDS_TOP1 | numbers.AP50_OF_DETECTOR
    regions = {"original": EVA_B.before(), "region-text": REGION_TEXT_B, "CLIPSelf": EVA_B_PROPOSALS}
    filled = tuple(KINDS_TOP1.values())
    yield from rows_of(regions, numbers.TEXT_REGIONS, columns, name="EVA-02 B/16: ", metrics=filled)
    base = {"region-text": FVIT_EVA_B.on(REGION_TEXT_B), "CLIPSelf": FVIT_EVA_B.on(EVA_B_PROPOSALS)}
    large = {"region-text": FVIT_EVA_L.on(REGION_TEXT_L), "CLIPSelf": FVIT_EVA_L.on(EVA_L_PROPOSALS)}
    filled = tuple(AP50.values())
    yield from rows_of(base, numbers.TEXT_COCO_EVA_B, columns, name="F-ViT on EVA-02 B/16: ", metrics=filled)
    yield from rows_of(large, numbers.TEXT_COCO_EVA_L, columns, name="F-ViT on EVA-02 L/14-336: ", metrics=filled)


def _untrained(name: str, run: Run, distilled: Run) -> Iterable[Row]:
    probe = distilled.taken_by("probe_coherence", "--pretrained", "coco_2017_val_panoptic_ov")
    return coherence(f"{name}: ", probe, towers(run, CLIPSelf=distilled))


ROWS: dict[str, Iterable[Row]] = {
    "1a": _varied(EVA_B, "dataloader.train.mapper.regions.max_split", numbers.LARGEST_GRID, own="6"),
    "1b": _varied(EVA_B, "model.trainable_blocks", numbers.BLOCKS, own="12"),
    "1c": (
        *_varied(EVA_B, "model.student_size", numbers.STUDENT_SIZE, own="1024"),
        Row("1024, image-text pairs", IMAGE_TEXT, (numbers.IMAGE_TEXT,)),
    ),
    "2": _regions("EVA-02 B/16", EVA_B, numbers.REGIONS_EVA_B, proposals=EVA_B_PROPOSALS),
    "3a": _ov_coco(AP50),
    "3b": _ov_lvis({"rare": MASK_AP["rare"]}),
    "4": (*_transfer("EVA-02 B/16", TRANSFER_B, {}), *_transfer("EVA-02 L/14-336", TRANSFER_L, numbers.TRANSFER_EVA_L)),
    "5": (
        *_cat_seg("OpenAI B/16", CAT_SEG_B, OPENAI_B, numbers.CAT_SEG_OPENAI_B),
        *_cat_seg("OpenAI L/14-336", CAT_SEG_L, OPENAI_L, numbers.CAT_SEG_OPENAI_L),
    ),
    "6": (
        *_panoptic("COCO", "odise_caption_coco", numbers.PANOPTIC_COCO),
        *_panoptic("ADE20K", "odise_caption_ade20k", numbers.PANOPTIC_ADE20K, ADE20K),
    ),
    "7": _trainings(),
    "A1": embeddings(EVA_B, numbers.REGIONS_EVA_B["original"]),
    "A2": (
        *_regions("OpenAI B/16", OPENAI_B, numbers.REGIONS_OPENAI_B),
        *_regions("EVA-02 B/16", EVA_B, numbers.REGIONS_EVA_B),
        *_regions("OpenAI L/14-336", OPENAI_L, numbers.REGIONS_OPENAI_L),
        *_regions("EVA-02 L/14-336", EVA_L, numbers.REGIONS_EVA_L),
    ),
    "A3": rows_of(designs(FVIT_EVA_B.on(EVA_B), last=11, levels=4), numbers.DESIGNS, AP50),
    "A4": _openai(),
    "A5": _ov_coco(AP50 | AP),
    "A6": _ov_lvis(MASK_AP),
    "fig1": (
        Row("RN50x4: image crops", EVA_B.before(*RN50X4), metrics=CROPS),
        Row("RN50x4: dense map", EVA_B.before(*RN50X4)),
        Row("EVA-02 B/16: image crops", EVA_B.before(), metrics=CROPS),
        Row("EVA-02 B/16: dense map, before", EVA_B.before()),
        Row("EVA-02 B/16: dense map, after", EVA_B),
    ),
    "fig3": (
        Row("image crops", CURVES["dense map, before"][224], metrics=CROPS, series="image crops"),
        Row("image crops, RN50x4", CURVES["dense map, RN50x4"][224], metrics=CROPS, series="image crops, RN50x4"),
        *curves(CURVES),
    ),
    "fig4": (Row("before", EVA_B.before()), Row("after", EVA_B)),
    "coherence": (
        *_untrained("OpenAI B/16", ZERO_SHOT_B, OPENAI_B),
        *_untrained("OpenAI L/14-336", ZERO_SHOT_L, OPENAI_L),
    ),
    "dense-modes": dense_modes("OpenAI B/16: ", OPENAI_B, ZERO_SHOT_B, DINO),
    "successors": successors("EVA-02 B/16: ", EVA_B, FVIT_EVA_B, ZERO_SHOT_EVA_B),
}
ROWS = {name: tuple(rows) for name, rows in ROWS.items()}
COLUMNS: dict[str, Columns] = {}
NOTE = ""
NOTES = {
    "6": "The masks are those of ODISE's caption model, saved beforehand (docs/panoptic.md). How the paper trains "
    "CLIPSelf on OpenAI's models, and the size of CLIP's input in this table, are not published.",
}
