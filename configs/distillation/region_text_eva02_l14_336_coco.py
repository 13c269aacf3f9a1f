"""Region-text training on pseudo pairs of COCO's captions, CLIPSelf's rival: EVA-02-CLIP L/14, 336 px.

As backbone of F-ViT on OV-COCO: 38.7 novel, 59.6 base, 54.1 all (CLIPSelf with the same proposals: 44.3, 64.1, 59.0).

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

All else is as in clipself_eva02_l14_336_coco_patches.py.
"""

from ..common.region_text import mapper as _mapper
from ..common.region_text import model
from .clipself_eva02_l14_336_coco_patches import clip, dataloader, export, lr_multiplier, optimizer, train

model.update(student_size=896, teacher_size=336, trainable_blocks=24, alpha=0.95)
dataloader.train.mapper = _mapper
train.output_dir = "output/region_text_eva02_l14_336_coco"
