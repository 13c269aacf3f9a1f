"""CLIPSelf with region proposals on OV-Shapes, those of an F-ViT's own network: the miniature of table 2's last row.

    python tools/train_net.py --config-file configs/miniature/fvit.py
    python tools/make_proposals.py --config-file configs/miniature/fvit.py \\
        --dataset ov_shapes_train_images --output output/miniature_fvit/proposals.json
    python tools/train_net.py --config-file configs/miniature/clipself_proposals.py

| value                  | paper                          | here                                            |
|------------------------|--------------------------------|-------------------------------------------------|
| proposals              | an RPN's, base classes         | those of the F-ViT on the shipped CLIP, 50 best |
| teacher crop           | box enlarged 1.5 x (released)  | box enlarged 1.5 x, clipped                     |
| proposals an image     | 20 at random (released)        | 20 at random                                    |

All else is as in clipself_patches.py.
"""

from detectron2.config import LazyCall as L

from clipself_d2.regions import ProposalRegions

from .clipself_patches import clip, dataloader, export, lr_multiplier, model, optimizer, train

dataloader.train.mapper.regions = L(ProposalRegions)(
    json_file="output/miniature_fvit/proposals.json", max_regions=20, min_size=8, max_size=1024, crop_scale=1.5
)
train.output_dir = "output/miniature_clipself_proposals"
