"""Image-text supervision of the large student: the model and the mapper in the place of CLIPSelf's."""

from detectron2.config import LazyCall as L

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import CaptionMapper
from clipself_d2.distillation import ImageText

model = L(ImageText)(
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    text_tower=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    student_size=1024,
    alpha=0.7,
    activation_checkpointing="${train.activation_checkpointing}",
)

mapper = L(CaptionMapper)()
