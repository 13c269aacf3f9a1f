"""Write pseudo pairs of region and noun as the json that region-text training reads, from captions and proposals.

OUTPUT is in COCO's format. Its categories are the nouns in the captions, and its annotations the proposals. Each has
the noun of its own image's captions whose text embedding is most similar to the image embedding of the proposal's crop
(enlarged 1.5 x), and their cosine as score. Training takes the first 20 annotations of an image; no more are made.
Images without captions, without a noun in them or without a proposal are left out and counted.
What is found is kept in OUTPUT.parts until OUTPUT is complete: a stopped command goes on there, on any number of ranks
(--num-gpus, or torchrun), and writes the same file.

The nouns (--nouns):
  objects    names of things that the package knows, about 3,400 (the default for real images)
  phrases    whatever follows an article in the captions, such as "red star" (the default for OV-Shapes)
  a file or words

Examples:
  the region-text baseline on COCO; the proposals are those of `clipself proposals`:
    clipself region-text --captions datasets/coco/annotations/captions_train2017.json \\
        --proposals datasets/coco/coco_proposals.json --dataset coco_2017_train_images \\
        --clip EVA02-B-16 --pretrained merged2b_s8b_b131k --output datasets/coco/coco_region_text.json
  the miniature's:
    clipself region-text --proposals output/fvit/proposals.json \\
        --dataset ov_shapes_train_images --clip OV-Shapes-ViT-8 --pretrained tower.safetensors --output pairs.json
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipself_d2.cli.arguments import add_clip, check_clip, existing_file, new_file
from clipself_d2.command_line import WORDS_HELP, ArgumentParser, announce, exit_codes, weights
from clipself_d2.errors import InputError

if TYPE_CHECKING:
    from clipself_d2.distillation.nouns import ImageNouns

_MOST_COMMON = 8  # nouns that are printed


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(
        "clipself region-text",
        description=__doc__,
        epilog=WORDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--captions",
        type=existing_file,
        metavar="FILE.json",
        help="in COCO's format (default: the data set's, if it has some)",
    )
    add(
        "--proposals",
        required=True,
        type=existing_file,
        metavar="FILE.json",
        help="as `clipself proposals` writes them",
    )
    add("--dataset", required=True, metavar="NAME", help="of the images; datasets/README.md has the names")
    add_clip(parser, required=True)
    add("--output", required=True, type=new_file, metavar="FILE.json", help="what to write; must not exist")
    add("--nouns", metavar="WORDS", help="objects, phrases, a file or words (see above and below)")
    add("--min-images", type=int, default=1, metavar="N", help="leave out nouns of fewer images (%(default)s)")
    add("--top", type=int, default=20, metavar="N", help="proposals of an image, the first (%(default)s)")
    add("--threshold", type=float, default=-1.0, metavar="COS", help="least cosine of a pair (%(default)s: all)")
    add("--templates", help="vild (63), photo, or one template with {} (default: the data set's, else vild)")
    add("--crop-size", type=int, metavar="PX", help="side of the crops (default: the model's own)")
    add("--batch-size", type=int, default=4, metavar="N", help="images at once (%(default)s)")
    add("--num-workers", type=int, default=4, metavar="N", help="processes that read (%(default)s)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="%(default)s")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks; on the CPU with --device cpu (%(default)s)")
    args = parser.parse_args(argv)
    check_clip(args)
    if min(args.top, args.min_images) < 1:
        raise InputError(f"--top {args.top} --min-images {args.min_images}: give numbers of at least 1")
    if not -1 <= args.threshold <= 1:
        raise InputError(f"--threshold {args.threshold}: a cosine is within -1..1")
    return args


@exit_codes("the same command goes on where it stopped")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"pairs of region and noun of {args.dataset}")

    from clipself_d2.engine.launch import launch

    launch(make_pairs, (args,), device=args.device, ranks_per_machine=args.num_gpus)


def make_pairs(args: argparse.Namespace) -> None:
    """Write the file, on each rank."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.utils import comm

    import clipself_d2.miniature  # noqa: F401  (registers its model and data sets)
    from clipself_d2.clip import build_towers
    from clipself_d2.clip.checkpoint import content_hash
    from clipself_d2.data import ImageMapper, get_dataset
    from clipself_d2.data.coco_json import write_annotations
    from clipself_d2.data.walk import Walk
    from clipself_d2.distillation.pseudo_pairs import match_pairs
    from clipself_d2.engine.inference import resolve_device
    from clipself_d2.regions import RegionEmbedder, load_proposals
    from clipself_d2.vocabulary import TextClassifier

    device = resolve_device(args.device)
    records = get_dataset(args.dataset)
    nouns = caption_nouns(args, records)
    proposals = load_proposals(args.proposals, {record["image_id"] for record in records})
    proposals = {image: boxes[: args.top] for image, boxes in proposals.items()}
    lacks: Counter[str] = Counter()
    usable = []
    for record in records:
        image = record["image_id"]
        if image not in nouns.of_image:
            lacks["have no captions"] += 1
        elif not nouns.of_image[image]:
            lacks["have captions without a noun"] += 1
        elif image not in proposals:
            lacks["have no proposals"] += 1
        else:
            usable.append(record)
    if not usable:
        raise InputError(f"{args.proposals}: no image of {args.dataset} has both a noun and a proposal")
    tower, text_tower = build_towers(args.clip, weights(args.pretrained))
    templates = args.templates or MetadataCatalog.get(args.dataset).get("caption_templates", "vild")
    embeddings = TextClassifier(text_tower.to(device), templates)(nouns.names)
    embedder = RegionEmbedder(tower.to(device).eval(), tower.native_size, args.crop_size)

    def process(samples: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        pairs = match_pairs(embedder, samples, proposals, nouns.of_image, embeddings, threshold=args.threshold)
        return [found.to_json() for found in pairs]

    info = {"description": "pseudo pairs of region and noun", "clip": args.clip, "weights": weights(args.pretrained)}
    info |= {"data": args.dataset, "top": args.top, "threshold": args.threshold}
    boxes = {f"boxes {image}": torch.from_numpy(each) for image, each in proposals.items()}
    inputs = content_hash({**boxes, **tower.state_dict(), "nouns": embeddings}, str(nouns.of_image)).hex()
    walk = Walk(args.output, usable, {**info, "inputs": inputs, "crop_size": embedder.crop_size}, args.batch_size)
    walk.run(ImageMapper(), process, args.num_workers)
    if not comm.is_main_process():
        return
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(nouns.names)]
    head = {"info": info, "categories": categories}
    written = write_annotations(args.output, walk.results(), head, "has a pair: lower --threshold")
    pairs = [pair for _, found in walk.results() for pair in found]
    walk.remove()
    print(f"wrote {written.boxes:,} pairs of {written.images - written.bare:,} images to {args.output}")
    used = Counter(pair["category_id"] - 1 for pair in pairs)
    common = ", ".join(f"{nouns.names[k]} {count:,}" for k, count in used.most_common(_MOST_COMMON))
    more = ", .." if len(used) > _MOST_COMMON else ""
    print(f"{len(used):,} of {len(nouns.names):,} nouns are paired: {common}{more}")
    print(f"mean cosine {sum(pair['score'] for pair in pairs) / written.boxes:.3f}")
    lacks["have no pair above the threshold"] = written.bare
    lacks["could not be read"] = len(usable) - written.images
    for problem, count in lacks.items():
        if count:
            print(f"{count:,} images {problem} and are left out")


def caption_nouns(args: argparse.Namespace, records: Sequence[dict[str, Any]]) -> "ImageNouns":
    """Find the nouns of the images' captions."""
    from detectron2.data import MetadataCatalog

    from clipself_d2.data import load_captions
    from clipself_d2.distillation.nouns import find_nouns, object_nouns, phrases
    from clipself_d2.vocabulary import ClassNames, describe_classes, read_vocabulary

    about = MetadataCatalog.get(args.dataset)
    file = args.captions or about.get("captions_json")
    if not file:
        raise InputError(f"data set {args.dataset!r} has no captions: name them by --captions")
    known = {record["image_id"] for record in records}
    captions = {image: texts for image, texts in load_captions(file).items() if image in known}
    if not captions:
        raise InputError(f"{file}: no caption is of an image of {args.dataset}: use the captions of this data set")
    wanted = args.nouns or about.get("caption_nouns", "objects")
    vocabulary: ClassNames
    if wanted == "objects":
        vocabulary = object_nouns()
    elif wanted == "phrases":
        vocabulary = phrases(text for texts in captions.values() for text in texts)
        if not vocabulary:
            raise InputError(f"{file}: no noun follows an article in these captions: use --nouns objects, or a file")
    else:
        vocabulary = read_vocabulary(wanted)
        print(describe_classes(vocabulary))
    try:
        return find_nouns(captions, vocabulary, args.min_images)
    except InputError as error:
        raise InputError(f"{file}: {error} (--nouns {wanted})") from None
