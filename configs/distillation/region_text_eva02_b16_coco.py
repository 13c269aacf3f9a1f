"""Region-text training on pseudo pairs of COCO's captions, CLIPSelf's rival: EVA-02-CLIP B/16.

Table 7: boxes 71.1, thing masks 73.7, stuff masks 34.2 (top-1; CLIPSelf with the same proposals: 74.0, 76.3, 36.8);
as backbone of F-ViT on OV-COCO 34.4 novel, 54.2 base, 49.0 all (37.6, 54.9, 50.4).

The pairs come out of captions and region proposals, see docs/region_text.md; the released coco_pseudo_4764.json is of
the same format. Put them at $DETECTRON2_DATASETS/coco/coco_region_text.json, or name another file:
dataloader.train.mapper.regions.json_file=FILE.

| value              | paper                   | released code                  | here                             |
|--------------------|-------------------------|--------------------------------|----------------------------------|
| nouns              | parsed from captions    | 4,764                          | about 3,500 names, those found   |
| pairs              | proposal and noun, CLIP | a file                         | of the image's captions, best    |
| images             | -                       | those with pairs               | as released                      |
| pairs of an image  | -                       | the first 20                   | as released                      |
| classes of a batch | -                       | 100, those in it and others    | as released                      |
| temperature        | -                       | CLIP's own                     | as released                      |
| loss               | -                       | sum of classes, mean of boxes  | as released, over all GPUs       |

All else is as in clipself_eva02_b16_coco_patches.py.
"""

from ..common.region_text import mapper as _mapper
from ..common.region_text import model
from .clipself_eva02_b16_coco_patches import clip, dataloader, export, lr_multiplier, optimizer, train

dataloader.train.mapper = _mapper
train.output_dir = "output/region_text_eva02_b16_coco"
