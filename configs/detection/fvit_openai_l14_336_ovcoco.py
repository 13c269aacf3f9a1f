"""F-ViT on OV-COCO: OpenAI CLIP L/14, 336 px.

Table A4 of the paper, AP50:

| row               | novel | base | all  |
|-------------------|-------|------|------|
| untouched tower   | 9.2   | 44.3 | 35.2 |
| CLIPSelf, patches | 31.3  | 49.2 | 44.6 |

    python tools/train_net.py --config-file configs/detection/fvit_openai_l14_336_ovcoco.py
    python tools/train_net.py --config-file configs/detection/fvit_openai_l14_336_ovcoco.py \\
        clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors \\
        train.output_dir=output/fvit_openai_l14_336_ovcoco_clipself_patches

The values beside the paper's and the released code's, and the towers, are in ../common/detection.py.
"""

from ..common.detection import clip, dataloader, model, shape, simple_pyramid
from ..common.detection import large_shape as _large_shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
shape.update(_large_shape)
model.size = 672
model.pixel_stats = "clip"
model.roi_heads.classifier.learned_background = "${shape.embed_dim}"
train.update(max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684))
