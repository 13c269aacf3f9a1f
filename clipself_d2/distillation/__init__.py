"""Meta-architectures that train a CLIP image tower, and the export of what they trained."""

from clipself_d2.distillation.clipself import CLIPSelf
from clipself_d2.distillation.export import CLIPExporter
from clipself_d2.distillation.image_text import ImageText
from clipself_d2.distillation.region_text import RegionText
from clipself_d2.distillation.student import Student
from clipself_d2.distillation.teacher_cache import TeacherCache, open_teacher_cache

__all__ = ["CLIPExporter", "CLIPSelf", "ImageText", "RegionText", "Student", "TeacherCache", "open_teacher_cache"]
