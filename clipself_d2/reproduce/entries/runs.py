"""The runs that tables share: towers trained by CLIPSelf, and the detectors that stand on them."""

from __future__ import annotations

from clipself_d2.reproduce.table import Run

LABORATORY = "The miniature shows effects and orderings, not the paper's values."

EVA_B, EVA_L, OPENAI_B, OPENAI_L = (
    Run(f"distillation/clipself_{model}_coco_patches.py")
    for model in ("eva02_b16", "eva02_l14_336", "openai_b16", "openai_l14_336")
)
EVA_B_LVIS, EVA_L_LVIS = (
    Run(f"distillation/clipself_{model}_lvis_patches.py") for model in ("eva02_b16", "eva02_l14_336")
)
COCO_PROPOSALS = Run("detection/rpn_r50_fpn_ovcoco.py").proposing("coco_2017_train_images")
EVA_B_PROPOSALS, EVA_L_PROPOSALS = (
    Run(f"distillation/clipself_{model}_coco_proposals.py", regions=COCO_PROPOSALS)
    for model in ("eva02_b16", "eva02_l14_336")
)
REGION_TEXT_B, REGION_TEXT_L = (
    Run(config, regions=COCO_PROPOSALS.pairing(config))
    for config in ("distillation/region_text_eva02_b16_coco.py", "distillation/region_text_eva02_l14_336_coco.py")
)
IMAGE_TEXT_B = Run("distillation/image_text_eva02_b16_coco.py")

MINIATURE = Run("miniature/clipself_patches.py")
MINIATURE_DETECTOR = Run("miniature/fvit.py")
"""On the tower as it is shipped; it proposes the regions, too, as there is no other network in the miniature."""
_MINIATURE_REGIONS = MINIATURE_DETECTOR.proposing("ov_shapes_train_images")
MINIATURE_PROPOSALS = Run("miniature/clipself_proposals.py", regions=_MINIATURE_REGIONS)
MINIATURE_REGION_TEXT = Run("miniature/region_text.py", regions=_MINIATURE_REGIONS.pairing("miniature/region_text.py"))
MINIATURE_IMAGE_TEXT = Run("miniature/image_text.py")

MINIATURE_MASKS = Run("miniature/panoptic_masks.py")


def detector(model: str, data: str, kind: str = "", tower: Run | None = None) -> Run:
    """The training of an F-ViT of `configs/detection`.

    Args:
        model: `eva02_b16`.
        data: `ovcoco` or `ovlvis`.
        kind: what CLIPSelf was trained on: "patches" or "proposals"; "" for the untouched tower.
        tower: the run of CLIPSelf whose tower it takes.
    """
    suffix = f"_clipself_{kind}" if kind else ""
    return Run(f"detection/fvit_{model}_{data}{suffix}.py", tower=tower)


def notes(scale: str, note: str = "") -> str:
    """A table's note; at the scale of the miniature it says what its numbers are worth."""
    return " ".join(filter(None, (note, LABORATORY if scale == "miniature" else "")))
