"""The paper's numbers (arXiv 2310.01403, ICLR 2024), in percent, and where ours stand in `results.json`."""

from __future__ import annotations

Numbers = dict[str, tuple[float | None, ...]]
"""A row's numbers, by what distinguishes the row; missing last numbers are None."""

# Columns: heading -> place in results.json.
BOXES = {"boxes top-1": "boxes.top1"}
KINDS_TOP1 = BOXES | {"thing masks top-1": "thing_masks.top1", "stuff masks top-1": "stuff_masks.top1"}
KINDS = {
    f"{kind} top-{k}": f"{kind.replace(' ', '_')}.top{k}"
    for kind in ("boxes", "thing masks", "stuff masks")
    for k in (1, 5)
}
AP50 = {"novel": "bbox.AP50_novel", "base": "bbox.AP50_base", "all": "bbox.AP50_all"}
AP = {"AP novel": "bbox.AP_novel", "AP base": "bbox.AP_base", "AP": "bbox.AP"}
MASK_AP = {"rare": "segm.APr", "common": "segm.APc", "frequent": "segm.APf", "all": "segm.AP"}
COCO_AP = {name: f"bbox.{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
PANOPTIC = {"PQ": "panoptic.PQ", "mAP": "segm.AP", "mIoU": "sem_seg.mIoU"}
SEMANTIC = {"mIoU": "sem_seg.mIoU", "mAcc": "sem_seg.mACC"}
AP50_OF_DETECTOR = {f"AP50 {group}": place for group, place in AP50.items()}
MIOU = {"mIoU": SEMANTIC["mIoU"]}
# Area below the ROC curve, of two patches of ...; "auc.TOWER, MODE." goes before.
COHERENCE = {"same object": "object", "same class": "class", "same class, two images": "class_across"}

# Tables 1a to 1c: boxes top-1 of EVA-02 B/16 after CLIPSelf with patches.
LARGEST_GRID = {"4": 71.3, "6": 72.1, "8": 71.6, "10": 70.0}
BLOCKS = {"3": 45.0, "6": 59.4, "9": 68.7, "12": 72.1}
STUDENT_SIZE = {"320": 46.5, "640": 67.1, "1024": 72.1}
IMAGE_TEXT = 52.3

# Tables 2 and A2: KINDS by training of the tower.
REGIONS_EVA_B: Numbers = {
    "original": (18.2, 33.2, 20.6, 36.5, 18.4, 43.5),
    "patches": (72.1, 91.3, 74.4, 91.8, 46.8, 80.2),
    "proposals": (74.0, 92.6, 76.3, 92.8, 36.8, 75.0),
}
REGIONS_EVA_L: Numbers = {
    "original": (56.7, 78.0, 59.0, 79.8, 20.8, 41.9),
    "patches": (77.1, 93.3, 78.7, 93.7, 44.4, 78.3),
}
REGIONS_OPENAI_B: Numbers = {
    "original": (29.3, 51.6, 33.5, 56.0, 25.9, 50.9),
    "patches": (67.4, 88.4, 69.4, 88.5, 43.4, 76.9),
}
REGIONS_OPENAI_L: Numbers = {
    "original": (21.4, 45.9, 28.3, 52.0, 11.8, 27.9),
    "patches": (68.9, 89.6, 70.0, 88.0, 35.5, 71.5),
}

# Tables 3a, A4 and A5: AP50 on OV-COCO by training of the tower.
COCO_EVA_B: Numbers = {"original": (17.5, 41.0, 34.9), "patches": (33.6, 54.2, 48.8), "proposals": (37.6, 54.9, 50.4)}
COCO_EVA_L: Numbers = {"original": (24.7, 53.6, 46.0), "patches": (38.4, 60.6, 54.8), "proposals": (44.3, 64.1, 59.0)}
COCO_OPENAI_B: Numbers = {"original": (16.0, 36.9, 31.4), "patches": (29.8, 46.9, 42.5)}
COCO_OPENAI_L: Numbers = {"original": (9.2, 44.3, 35.2), "patches": (31.3, 49.2, 44.6)}
# Table A3: AP50 on OV-COCO, EVA-02 B/16 after CLIPSelf with patches, by design of the detector.
DESIGNS: Numbers = {
    "simple pyramid, last block": (23.1, 46.6, 40.4),
    "FPN, last block": (26.5, 47.0, 41.6),
    "FPN, intermediate blocks": (33.6, 54.2, 48.8),
    "the same, tower trains, lr x 0.01": (31.1, 56.6, 49.9),
    "the same, tower trains, lr x 0.1": (21.8, 58.6, 48.8),
}
# Tables 3b and A6: MASK_AP on OV-LVIS by training of the tower.
LVIS_EVA_B: Numbers = {"original": (11.5, 12.3, 20.6, 15.4), "patches": (25.3, 21.8, 29.1, 25.2)}
LVIS_EVA_L: Numbers = {"original": (24.2, 27.9, 31.5, 28.7), "patches": (34.9, 34.6, 35.6, 35.1)}
# Table 4: COCO_AP of the detector of OV-LVIS after CLIPSelf with patches.
TRANSFER_EVA_L: Numbers = {
    "COCO": (40.5, 63.8, 44.3, 26.8, 44.6, 53.8),
    "Objects365 v1": (19.5, 31.3, 20.7, 9.7, 23.2, 35.5),
}

# Table 5: mIoU of the first version of CAT-Seg, whose numbers later ones do not share, by data set, then tower.
CAT_SEG_OPENAI_B = {
    "ADE-150": {"original": 27.2, "CLIPSelf": 29.0},
    "ADE-847": {"original": 8.4},
    "PC-59": {"original": 57.5},
}
CAT_SEG_OPENAI_L = {
    "ADE-150": {"original": 31.5, "CLIPSelf": 34.5},
    "ADE-847": {"original": 10.8, "CLIPSelf": 12.4},
    "PC-59": {"original": 62.0, "CLIPSelf": 62.3},
}

# Table 6: PANOPTIC by scores and tower.
PANOPTIC_COCO: Numbers = {
    "CLIP only, original": (27.6,),
    "CLIP only, CLIPSelf": (35.1,),
    "fused, original": (45.3, 38.1, 52.3),
    "fused, CLIPSelf": (45.7,),
}
PANOPTIC_ADE20K: Numbers = {
    "CLIP only, original": (15.3,),
    "CLIP only, CLIPSelf": (19.5,),
    "fused, original": (22.9, 13.4, 28.5),
    "fused, CLIPSelf": (23.7, 13.6, 30.1),
}

# Table 7, on the same proposals: KINDS_TOP1 of EVA-02 B/16; AP50 of F-ViT on OV-COCO.
TEXT_REGIONS: Numbers = {
    "original": (18.2, 20.6, 18.4),
    "region-text": (71.1, 73.7, 34.2),
    "CLIPSelf": (74.0, 76.3, 36.8),
}
TEXT_COCO_EVA_B: Numbers = {"region-text": (34.4, 54.2, 49.0), "CLIPSelf": (37.6, 54.9, 50.4)}
TEXT_COCO_EVA_L: Numbers = {"region-text": (38.7, 59.6, 54.1), "CLIPSelf": (44.3, 64.1, 59.0)}
