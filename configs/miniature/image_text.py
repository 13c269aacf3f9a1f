"""Image-text training on OV-Shapes at CLIPSelf's image size: the miniature of the fifth row of the paper's Table 1c.

    python tools/train_net.py --config-file configs/miniature/image_text.py

| value         | paper               | here                                                   |
|---------------|---------------------|--------------------------------------------------------|
| image size    | that of the student | 128                                                    |
| captions      | COCO's              | a list of what is in the scene, the first 18 tokens    |
| negatives     | -                   | the other 7 captions of the batch                      |
| learning rate | -                   | 4e-4, a tenth of CLIPSelf's, at which (by AdamW) the   |
|               |                     | tower forgot what it knew of crops                     |

All else is as in clipself_patches.py.
"""

from ..common.image_text import mapper as _mapper
from ..common.image_text import model
from .clipself_patches import clip, dataloader, export, lr_multiplier, optimizer, train

model.update(student_size=128, alpha=0.95)
dataloader.train.update(dataset="ov_shapes_train_captions", mapper=_mapper)
optimizer.lr = 4e-4
