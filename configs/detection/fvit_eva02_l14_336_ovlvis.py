"""F-ViT on OV-LVIS: EVA-02-CLIP L/14, 336 px.

Tables 3b and A6 of the paper, mask AP:

| row               | rare | common | frequent | all  |
|-------------------|------|--------|----------|------|
| untouched tower   | 24.2 | 27.9   | 31.5     | 28.7 |
| CLIPSelf, patches | 34.9 | 34.6   | 35.6     | 35.1 |

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovlvis.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovlvis.py \\
        clip.pretrained=output/clipself_eva02_l14_336_lvis_patches/tower.safetensors \\
        train.output_dir=output/fvit_eva02_l14_336_ovlvis_clipself_patches

The values beside the paper's and the released code's, and the towers, are in ../common/detection_lvis.py.
"""

from ..common.detection import large_shape as _large_shape
from ..common.detection_lvis import clip, dataloader, model, shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
shape.update(_large_shape)
model.size = 896
model.roi_heads.beta = 0.4
lr_multiplier.milestones = [32 / 48, 44 / 48]
train.update(max_iter=75_168, eval_period=18_792, checkpointer=dict(period=1_566))
