"""F-ViT on OV-LVIS: EVA-02-CLIP B/16.

Tables 3b and A6 of the paper, mask AP:

| row               | rare | common | frequent | all  |
|-------------------|------|--------|----------|------|
| untouched tower   | 11.5 | 12.3   | 20.6     | 15.4 |
| CLIPSelf, patches | 25.3 | 21.8   | 29.1     | 25.2 |

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovlvis.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovlvis.py \\
        clip.pretrained=output/clipself_eva02_b16_lvis_patches/tower.safetensors \\
        train.output_dir=output/fvit_eva02_b16_ovlvis_clipself_patches

The values beside the paper's and the released code's, and the towers, are in ../common/detection_lvis.py.
"""

from ..common.detection_lvis import clip, dataloader, model, shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
model.size = 1024
model.roi_heads.beta = 0.6
lr_multiplier.milestones = [32 / 48, 44 / 48]
train.update(max_iter=75_168, eval_period=18_792, checkpointer=dict(period=1_566))
