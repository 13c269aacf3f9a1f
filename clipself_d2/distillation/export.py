"""Writing a trained image tower back into its CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipself_d2.clip import build_text_tower, save_checkpoint
from clipself_d2.clip.build import name_for_card
from clipself_d2.distillation.student import Student


class CLIPExporter:
    """Writes a whole CLIP with the trained image tower, which `open_clip.create_model(name, pretrained=path)` loads.

    Args:
        name: the CLIP that was trained; see `clip.build_towers`.
        pretrained: its initial weights, from which the text tower is taken.
    """

    def __init__(self, name: str, pretrained: str | None) -> None:
        self.name = name
        self.pretrained = pretrained

    def __call__(self, model: Student, path: str | Path, card: Mapping[str, Any]) -> None:
        """Save the ensembled tower with the text tower.

        Args:
            model: trained; its `ensembled_state_dict()` is written.
            path: `NAME.safetensors`; the card is `NAME.json`.
            card: facts about the run. The model's name, initial weights and settings are added, of which
                `regions.RegionClassifier.from_pretrained` reads `student_size`.
        """
        text = build_text_tower(self.name, self.pretrained).state_dict()
        recorded = ("alpha", "student_size", "teacher_size", "trainable_blocks")
        settings = {name: getattr(model, name) for name in recorded}
        start = self.pretrained
        if start and (start.startswith("local-dir:") or Path(start).is_file()):
            start = Path(start).name  # folders are private
        source = {"model": name_for_card(self.name, Path(path)), "pretrained": start}
        save_checkpoint({**model.ensembled_state_dict(), **text}, path, {**source, **settings, **card})
