"""F-ViT on OV-COCO with the untouched tower: OpenAI CLIP L/14, 336 px.

Table A4, AP50: novel 9.2, base 44.3, all 35.2.

    python tools/train_net.py --config-file configs/detection/fvit_openai_l14_336_ovcoco.py

| value                 | paper         | released code                   | here                        |
|-----------------------|---------------|---------------------------------|-----------------------------|
| input size            | 672           | -                               | 672                         |
| normalisation         | -             | CLIP's (CLIM)                   | CLIP's                      |
| blocks                | -             | 6, 10, 14, 23                   | as released                 |
| up-sampling           | interpolation | transposed convolutions         | as released                 |
| strides               | -             | 3.5, 7, 14, 28; RPN 56          | as released                 |
| anchors               | -             | 8 strides; 1/2, 1, 2            | as released                 |
| proposals             | -             | 1,000 of 2,000 a level, NMS 0.7 | as released                 |
| regions an image      | -             | 512, 1/4 of them objects        | as released                 |
| temperature           | -             | learned, from 50                | as released                 |
| background            | -             | learned (CLIM), weight -        | learned, weight 0.6         |
| alpha, beta, CLIP's T | -             | 0.1, 0.8, -                     | 0.1, 0.8, 75                |
| detections            | -             | score > 0.01, NMS 0.4, 100      | as released                 |
| jitter                | -             | 0.1 .. 2.0, crop, flip 0.5      | as released                 |
| batch, steps          | -             | 64, 3 epochs                    | 64, 5,052 of 107,761 images |
| AdamW                 | -             | lr 1e-4, decay 0.1, clip 1.0    | as released                 |
| schedule              | -             | 250 steps of warm-up, constant  | as released                 |
| precision             | -             | fp16 autocast                   | bf16 autocast               |

CLIPSelf has no recipe for OpenAI's models; "CLIM" is the code that its authors point to instead. What that does not say
is as with EVA-02.
"""

from ..common.detection import clip, dataloader, model, shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
shape.update(blocks=[6, 10, 14, 23], block_dim=1024, embed_dim=768, stride=14)
shape.update(strides=[3.5, 7, 14, 28, 56], region_strides=[3.5, 7, 14, 28])
model.update(size=672, pixel_stats="clip")
model.roi_heads.update(alpha=0.1, beta=0.8, clip_temperature=75.0)
model.roi_heads.classifier.learned_background = "${shape.embed_dim}"
train.update(
    output_dir="output/fvit_openai_l14_336_ovcoco", max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684)
)
