"""Region-text training on OV-Shapes, CLIPSelf's rival in the miniature of the paper's Table 7.

    python tools/train_net.py --config-file configs/miniature/fvit.py
    python tools/make_proposals.py --config-file configs/miniature/fvit.py \\
        --dataset ov_shapes_train_images --output output/fvit/proposals.json
    clipself region-text --proposals output/fvit/proposals.json --clip OV-Shapes-ViT-8 \\
        --pretrained clipself_d2/miniature/ov_shapes_clip.safetensors \\
        --dataset ov_shapes_train_images --output output/fvit/region_text.json
    python tools/train_net.py --config-file configs/miniature/region_text.py

| value              | paper                       | here                                                |
|--------------------|-----------------------------|-----------------------------------------------------|
| captions           | COCO's                      | a list of what is in the scene                      |
| nouns              | 4,764 parsed (released)     | what follows an article: 104                        |
| proposals          | an RPN's, base classes      | those of the F-ViT on the shipped CLIP, the 20 best |
| classes of a batch | 100, those in it and others | 100                                                 |
| temperature        | CLIP's own                  | CLIP's own, 20                                      |

All else is as in clipself_patches.py.
"""

from clipself_d2.miniature import TEMPLATES

from ..common.region_text import mapper as _mapper
from ..common.region_text import model
from .clipself_patches import clip, dataloader, export, lr_multiplier, optimizer, train

model.update(student_size=128, alpha=0.95)
model.text.templates = list(TEMPLATES)
dataloader.train.mapper = _mapper
dataloader.train.mapper.regions.json_file = "output/fvit/region_text.json"
