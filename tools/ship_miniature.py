"""Write the weights that ship with the miniature from finished runs, in half precision.

TOWER is what CLIPSelf made of the shipped CLIP, DETECTOR an F-ViT on it. The shipped ones are those of table 3a's last
row, whose runs lie in output/reproduce/runs:

  python tools/reproduce.py 3a
  python tools/ship_miniature.py --tower RUN/tower.safetensors --detector RUN/checkpoint_0000200.pth
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", type=Path, required=True, help="tower.safetensors of a distillation")
    parser.add_argument("--detector", type=Path, required=True, help="checkpoint_*.pth of an F-ViT on that tower")
    args = parser.parse_args(argv)

    import torch

    from clipself_d2.clip.checkpoint import read_checkpoint, save_checkpoint, write_atomically
    from clipself_d2.engine.checkpoint import read
    from clipself_d2.engine.config import build, load_config
    from clipself_d2.miniature import CLIPSELF_WEIGHTS, DETECTOR, MODEL

    tower = {name: value.half() for name, value in read_checkpoint(args.tower).items()}
    card = json.loads(args.tower.with_suffix(".json").read_text())
    save_checkpoint(tower, CLIPSELF_WEIGHTS, {**card, "model": MODEL, "pretrained": Path(card["pretrained"]).name})
    # Fingerprints of the frozen tower are those of the rounded one; all else is the run's.
    cfg = load_config("miniature/fvit", [f"clip.pretrained={CLIPSELF_WEIGHTS}", "train.device=cpu"])
    own = build(cfg, "model").state_dict()
    state = {
        name: own[name] if "fingerprint" in name else value.half() if value.is_floating_point() else value
        for name, value in read(args.detector)["model"].items()
    }
    write_atomically(Path(DETECTOR), lambda file: torch.save({"model": state, "iteration": 0}, file))
    print(f"written to {CLIPSELF_WEIGHTS} and {DETECTOR}")


if __name__ == "__main__":
    sys.exit(main())
