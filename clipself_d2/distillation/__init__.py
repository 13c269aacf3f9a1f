"""Meta-architectures that train a CLIP image tower, and the export of what they trained."""

from clipself_d2.distillation.clipself import CLIPSelf
from clipself_d2.distillation.export import CLIPExporter
from clipself_d2.distillation.student import Student

__all__ = ["CLIPExporter", "CLIPSelf", "Student"]
