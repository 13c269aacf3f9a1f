"""Give every pixel of images and videos the best of your words, by a CLIP's dense map and the text alone.

Nothing is trained: each location of the dense map takes the word whose text embedding is nearest. A CLIP that CLIPSelf
has distilled does it best. Name what surrounds your words too ("sky", "street"). With --masks, SAM or SAM 2 finds the
segments, and CLIP names them. For each input, OUTPUT gets the image with its segments drawn, and a json of them with
masks as COCO's RLE. The CLIP is the small one that ships (with --masks: OpenAI's L/14 at 336 px), or --clip.

Examples:
  clipself segment photo.jpg --words "red star, lawn/grass"
  clipself segment photos/ --words "cat, red car, street, sky" --clip EVA02-B-16 --pretrained tower.safetensors
  clipself segment photos/ --words "cat, street" --clip ViT-B-16-quickgelu --pretrained openai model.finer=2
  clipself segment photo.jpg --words "cat, sofa, window" --masks facebook/sam-vit-base
"""

from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli import predict
from clipself_d2.cli.overrides import override
from clipself_d2.command_line import exit_codes

TOWER = Path(__file__).parents[1] / "miniature/ov_shapes_clipself.safetensors"
SHIPPED = ("miniature/zero_shot_semantic", override("clip.pretrained", str(TOWER)))


@exit_codes("with --resume the same command goes on where it stopped")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    predict.predict(predict.parse_args(argv, "segment", __doc__, SHIPPED))
