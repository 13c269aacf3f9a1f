"""CLIPSelf on COCO photographs with region proposals: EVA-02-CLIP B/16.

Table 2: boxes 74.0 / 92.6, thing masks 76.3 / 92.8, stuff masks 36.8 / 75.0 (top-1 / top-5).

The paper's proposals are those of an RPN trained on the 48 base classes of OV-COCO; how they were made is not
released. Make a COCO-format json of boxes, of any score and class, at $DETECTRON2_DATASETS/coco/coco_proposals.json, or
name another: dataloader.train.mapper.regions.json_file=FILE.

| value                  | paper    | released code                  | here        |
|------------------------|----------|--------------------------------|-------------|
| student box            | proposal | proposal                       | proposal    |
| teacher crop           | -        | box enlarged 1.5 x, clipped    | as released |
| proposals an image     | -        | 20 at random, then size filter | as released |
| size filter            | -        | 8^2 .. 1024^2 pixels           | as released |
| image without proposal | -        | top-left quarter of its sides  | as released |

All else is as in clipself_eva02_b16_coco_patches.py.
"""

from detectron2.config import LazyCall as L

from clipself_d2.regions import ProposalRegions

from .clipself_eva02_b16_coco_patches import clip, dataloader, export, lr_multiplier, model, optimizer, train

dataloader.train.mapper.regions = L(ProposalRegions)(
    json_file="${oc.env:DETECTRON2_DATASETS,datasets}/coco/coco_proposals.json",
    max_regions=20,
    min_size=8,
    max_size=1024,
    crop_scale=1.5,
)
train.output_dir = "output/clipself_eva02_b16_coco_proposals"
