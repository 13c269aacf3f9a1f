"""Region-text training on pseudo pairs of COCO's captions, CLIPSelf's rival: EVA-02-CLIP B/16.

Table 7 of the paper: boxes 71.1, thing masks 73.7, stuff masks 34.2 (top-1; CLIPSelf with the same proposals: 74.0,
76.3, 36.8). As backbone of F-ViT on OV-COCO, AP50 of novel, base and all classes:

| tower           | region-text      | CLIPSelf         |
|-----------------|------------------|------------------|
| EVA-02 B/16     | 34.4, 54.2, 49.0 | 37.6, 54.9, 50.4 |
| EVA-02 L/14-336 | 38.7, 59.6, 54.1 | 44.3, 64.1, 59.0 |

    python tools/train_net.py --config-file configs/distillation/region_text_eva02_b16_coco.py
    python tools/train_net.py --config-file configs/distillation/region_text_eva02_b16_coco.py \\
        clip.name=EVA02-L-14-336 clip.pretrained=merged2b_s6b_b61k model.student_size=896 model.alpha=0.95 \\
        train.output_dir=output/region_text_eva02_l14_336_coco

The pairs come out of captions and region proposals, see docs/region_text.md; the released coco_pseudo_4764.json has the
same format. Put them at $DETECTRON2_DATASETS/coco/coco_region_text.json, or name another file:
dataloader.train.mapper.regions.json_file=FILE.

| value              | paper                   | released code                 | here                           |
|--------------------|-------------------------|-------------------------------|--------------------------------|
| nouns              | parsed from captions    | 4,764                         | about 3,500 names, those found |
| pairs              | proposal and noun, CLIP | a file                        | of the image's captions, best  |
| images             | -                       | those with pairs              | as released                    |
| pairs of an image  | -                       | the first 20                  | as released                    |
| classes of a batch | -                       | 100, those in it and others   | as released                    |
| temperature        | -                       | CLIP's own                    | as released                    |
| loss               | -                       | sum of classes, mean of boxes | as released, over all GPUs     |

All else is as in CLIPSelf's file of the tower.
"""

from ..common.region_text import mapper as _mapper
from ..common.region_text import model
from .clipself_eva02_b16_coco_patches import clip, dataloader, export, lr_multiplier, optimizer, train

dataloader.train.mapper = _mapper
