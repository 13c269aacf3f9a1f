"""CLIPSelf with image patches on OV-Shapes, from the shipped CLIP: the miniature of the paper's Table 2.

    python tools/train_net.py --config-file configs/miniature/clipself_patches.py

and with region proposals, those of an F-ViT's own network:

    python tools/train_net.py --config-file configs/miniature/fvit.py
    python tools/make_proposals.py --config-file configs/miniature/fvit.py \\
        --dataset ov_shapes_train_images --output output/fvit/proposals.json
    python tools/train_net.py --config-file configs/miniature/clipself_patches.py \\
        dataloader.train.mapper.regions='${proposals}' train.output_dir=output/clipself_proposals

| value                  | paper, B/16         | here                                         |
|------------------------|---------------------|----------------------------------------------|
| student / teacher size | 1024 / 224          | 128 / 64                                     |
| trainable blocks       | all 12              | all 6                                        |
| grid                   | m, n in 1..6        | the released pairs up to 6, 20 regions       |
| batch, steps           | 16, 44k             | 8, 850                                       |
| optimizer              | AdamW               | Muon: twice as far in as many steps          |
| lr, weight decay       | 1e-5, 0.1           | 4e-3, 0.1                                    |
| alpha                  | 0.7 (released code) | 0.95                                         |
| proposals              | an RPN's            | the F-ViT's 50 best, 20 of them at random    |
"""

from detectron2.config import LazyCall as L

from clipself_d2.distillation import TowerGuide
from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS

from ..common.distillation import clip, correlations, dataloader, export, model, proposals
from ..common.optim import lr_multiplier
from ..common.optim import muon as optimizer
from ..common.train import train

clip.update(name=MODEL, pretrained=WEIGHTS)
model.update(student_size=128, alpha=0.95)
correlations.guide = L(TowerGuide)(tower="${model.tower}", block=3)  # plays DINOv2
proposals.json_file = "output/fvit/proposals.json"
dataloader.train.update(dataset="ov_shapes_train_images", total_batch_size=8, num_workers=1)
dataloader.test.update(dataset="ov_shapes_val_panoptic_regions", num_workers=0, batch_size=8)
dataloader.evaluator.text.templates = list(TEMPLATES)
lr_multiplier.warmup_iters = 50
train.update(max_iter=850, log_period=50, checkpointer=dict(period=425))
