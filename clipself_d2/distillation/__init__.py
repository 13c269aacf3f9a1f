"""Meta-architectures that train a CLIP image tower, and the export of what they trained."""

from clipself_d2.distillation.clipself import CLIPSelf
from clipself_d2.distillation.correlation import CorrelationLoss
from clipself_d2.distillation.export import CLIPExporter
from clipself_d2.distillation.guides import TimmGuide, TowerGuide
from clipself_d2.distillation.image_text import ImageText
from clipself_d2.distillation.region_text import RegionText
from clipself_d2.distillation.student import Student
from clipself_d2.distillation.teacher_cache import TeacherCache, open_teacher_cache

__all__ = [
    "CLIPExporter",
    "CLIPSelf",
    "CorrelationLoss",
    "ImageText",
    "RegionText",
    "Student",
    "TeacherCache",
    "TimmGuide",
    "TowerGuide",
    "open_teacher_cache",
]
