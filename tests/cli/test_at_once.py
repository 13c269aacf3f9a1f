"""What a command says before it imports what takes seconds: errors, and what it is about to do.

One process runs all command lines. Its imports of PyTorch and the like raise: a command that gets there has said its
first line, and what is wrong should have come before.
"""

import json
import socket
import subprocess
import sys

import pytest

RUN = """
import contextlib, importlib.util, io, json, resource, sys
from clipself_d2.cli import main

SLOW = {"torch", "torchvision", "detectron2", "gradio", "cv2", "matplotlib", "transformers"}

class Reached(BaseException):
    pass

class Guard:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in SLOW else None

    def create_module(self, spec):
        raise Reached

    exec_module = None

sys.meta_path.insert(0, Guard())
for line in sys.stdin:
    out, err, code = io.StringIO(), io.StringIO(), "slow imports"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except Reached:
            pass
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([code, out.getvalue(), err.getvalue(), used.ru_utime + used.ru_stime]))
"""
WRONG = {
    "predict absent.jpg --words cat": "absent.jpg: there is no such file or folder",
    "predict empty --words cat": "empty: no image or video in this folder",
    "predict a.png --words absent.txt": "argument --words: absent.txt: there is no such file of classes",
    "predict a.png --words cat,cat": "'cat' is given twice",
    "predict a.png --words cat --novel absent.txt": "argument --novel: absent.txt",
    "predict a.png --words cat --output a.png/out": "argument --output: a.png/out: nothing can be written there",
    "predict a.png --words cat --output .": ".: has the inputs, which would be overwritten",
    "predict a.png --words cat --config-file miniature/fvti": "did you mean miniature/fvit?",
    "predict a.png --words cat --config-file miniature/fvit --weights absent.pth": "absent.pth: there is no such file",
    "segment absent.png --words cat": "absent.png: there is no such file or folder",
    "segment a.png --words cat --clip ViT-B-16 --pretrained out/absent.safetensors": "--pretrained: out/absent",
    "heatmap absent.png --words cat": "absent.png: there is no such file or folder",
    "heatmap a.png --words absent.json": "argument --words: absent.json",
    "heatmap a.png --words cat --format jpg": "argument --format: invalid choice: 'jpg'",
    "heatmap a.png --words cat --output a.png": "argument --output: a.png: nothing can be written there",
    "predict https://host/cat.jpg --words cat": "https://host/cat.jpg: is no file: download it, and name the file",
    "heatmap http://host/video --words cat": "http://host/video: is no file: download it, and name the file",
    "distill --images absent": "argument --images: absent: there is no such folder",
    "distill --images empty": "argument --images: empty: holds no images",
    "distill --images . --pretrained absent.pt": "argument --pretrained: absent.pt: there is no such file",
    "distill --images . --output a.png": "argument --output: a.png",
    "train --config-file absent.py": "argument --config-file: absent.py: no such config file",
    "train --images absent --train a.png --val a.png": "argument --images: absent: there is no such folder",
    "train --images . --train absent.json --val a.png": "argument --train: absent.json: there is no such file",
    "train --images . --train a.png --val absent.json": "argument --val: absent.json: there is no such file",
    "train --images . --train a.png --val a.png --novel absent.txt": "argument --novel: absent.txt",
    "eval --images . --boxes absent.json": "argument --boxes: absent.json: there is no such file",
    "eval --images . --boxes a.png --output a.png/x": "argument --output: a.png/x: nothing can be written there",
    "export dense.pt --clip ViT-B-16 --pretrained openai": "dense.pt: end the name in .onnx",
    "export a.png/dense.pt2 --clip ViT-B-16 --pretrained openai": "argument output: a.png: nothing can be written",
    "export empty --clip ViT-B-16 --pretrained openai": "argument output: empty: is a folder: name a file",
    "export a.pt2 --clip absent.json --pretrained openai": "argument --clip: absent.json: there is no such file",
    "export a.pt2 --config-file miniature/fvit --words absent.txt": "argument --words: absent.txt",
    "convert absent.pt a.safetensors --clip ViT-B-16": "absent.pt: there is no such file",
    "convert a.png a.pt --clip ViT-B-16": "a.pt: the format open_clip needs a name that ends in .safetensors",
    "convert a.png a --clip ViT-B-16 --format onnx": "argument --format: invalid choice: 'onnx'",
    "convert a.png a.png --clip ViT-B-16 --format transformers": "a.png: nothing can be written there",
    "proposals --config-file miniature/fvti --dataset x --output p.json": "did you mean miniature/fvit?",
    "proposals --config-file miniature/fvit --dataset x --output a.png": "a.png: exists already",
    "proposals --config-file miniature/fvit --dataset x --output a.png/p.json": "a.png: nothing can be written there",
    "push absent.safetensors me/clip --license mit": "absent.safetensors: there is no such file",
    "push absent me/clip --license mit": "absent: no such config file",
    "push . me/clip --license mit --dry-run a.png": "argument --dry-run: a.png: nothing can be written there",
    "web --port 65536": "argument --port: 65536: a port is a number of 0 to 65535",
    "web --port TAKEN": "Address already in use; choose another port",
    "web --clip ViT-B-16 --pretrained openai --compare absent.pt": "argument --compare: absent.pt: there",
    "embed --clip ViT-B-16 --pretrained openai --vocabulary absent.txt --output a.pt": "argument --vocabulary: absent",
    "region-text --proposals absent.json --dataset x --clip X --pretrained y --output o": "--proposals: absent.json",
    "coherence --pretrained absent.pt": "argument --pretrained: absent.pt: there is no such file",
    "save-masks --dataset x --instances absent.json --output out": "argument --instances: absent.json",
    "demo --output a.png": "argument --output: a.png: nothing can be written there",
}
RIGHT = {
    "predict a.png --words cat,dog": "2 classes: cat, dog",
    "segment a.png --words cat": "1 class: cat",
    "heatmap a.png --words cat": "1 class: cat",
    "distill --images .": "CLIPSelf on the images of .",
    "train --config-file miniature/fvit": "training by miniature/fvit",
    "train --images . --train a.png --val a.png": "training by detection/fvit_eva02_b16_ovcoco",
    "eval --images . --boxes a.png": "evaluation by distillation/clipself_eva02_b16_coco_patches",
    "export a.pt2 --clip ViT-B-16 --pretrained openai": "export of ViT-B-16 to a.pt2",
    "convert a.png a.safetensors --clip ViT-B-16": "a.png to the format open_clip",
    "proposals --config-file miniature/fvit --dataset x --output p.json": "proposals of miniature/fvit for x",
    "push . me/clip --license mit": "files of me/clip from .",
    "web --port 0": "loading the models",
    "towers siglip2": "of open_clip's names:",
    "embed --clip ViT-B-16 --pretrained openai --vocabulary cat --output a.pt": "1 class: cat",
    "region-text --proposals a.png --dataset x --clip X --pretrained y --output o.json": "pairs of region and noun",
    "save-masks --dataset x --instances a.png --output out": "masks of a.png",
    "demo": "CLIPSelf on the small CLIP that ships",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command line ends with, prints on both streams, and takes of the processor up to its end."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "empty").mkdir()
    (folder / "a.png").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lines = [*WRONG, *RIGHT]
        text = "\n".join(json.dumps(line.replace("TAKEN", port).split()) for line in lines)
        found = subprocess.run([sys.executable, "-c", RUN], input=text, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return dict(zip(lines, map(json.loads, found.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_at_once(said, line):
    code, _, err, _ = said[line]
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and WRONG[line] in err


@pytest.mark.parametrize("line", RIGHT)
def test_the_first_line_comes_before_the_slow_imports(said, line):
    code, out, err, _ = said[line]
    assert code == "slow imports" and not err
    assert RIGHT[line] in out and out.count("\n") == 1


def test_it_takes_no_time(said):
    """The first line of a long command comes within 10 s of the processor, with the start of Python."""
    assert max(seconds for *_, seconds in said.values()) < 10
