"""F-ViT on OV-COCO: OpenAI CLIP B/16.

Table A4 of the paper, AP50:

| row               | novel | base | all  |
|-------------------|-------|------|------|
| untouched tower   | 16.0  | 36.9 | 31.4 |
| CLIPSelf, patches | 29.8  | 46.9 | 42.5 |

    python tools/train_net.py --config-file configs/detection/fvit_openai_b16_ovcoco.py
    python tools/train_net.py --config-file configs/detection/fvit_openai_b16_ovcoco.py \\
        clip.pretrained=output/clipself_openai_b16_coco_patches/tower.safetensors \\
        train.output_dir=output/fvit_openai_b16_ovcoco_clipself_patches

The values beside the paper's and the released code's, and the towers, are in ../common/detection.py.
"""

from ..common.detection import clip, dataloader, model, shape, simple_pyramid
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="ViT-B-16-quickgelu", pretrained="openai")
model.size = 640
model.pixel_stats = "clip"
model.roi_heads.classifier.learned_background = "${shape.embed_dim}"
train.update(max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684))
