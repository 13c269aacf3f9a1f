"""Output folders that something has damaged: a resumed run goes on from what is whole, or ends with one line."""

import os
import pickle
import random
import shutil

import pytest
import torch

from clipself_d2.engine.main import main
from tests.engine.test_run import final, same
from tests.engine.toy import CONFIG

COUNT = int(os.environ.get("FOLDERS", 8))  # 200 by hand


def truncate(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip(path, draw):
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 5, 100])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def scribble(path, draw):
    path.write_bytes(draw.randbytes(draw.choice([0, 1, 100, 10_000])))


def replace_by_folder(path, draw):
    path.unlink()
    path.mkdir()


def replace_by_link(path, draw):
    path.unlink()
    path.symlink_to(draw.choice([path.name, "missing", "/dev/null", "/"]))


def pickled(path, draw):
    path.write_bytes(pickle.dumps({"model": draw.choice([print, slice(3), [1], None])}))


def edit(path, draw):
    """Put something else in the place of one of the values, as torch would write it."""
    state = torch.load(path, weights_only=True)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(state)
    node, key = draw.choice(places)
    if isinstance(node, dict) and draw.random() < 0.2:
        del node[key]
    else:
        node[key] = draw.choice(
            [None, "text", -1, 1e9, [], {}, {"a": 1}, torch.zeros(7), torch.tensor(torch.nan), torch.zeros(0),
             True, torch.zeros(1).expand(10**9), torch.zeros(3).to_sparse(), torch.zeros(3, device="meta"),
             torch.ones(1, 3).int()]
        )  # fmt: skip
    torch.save(state, path)


CHECKPOINTS = ["checkpoint_0000008.pth", "checkpoint_0000012.pth"]
OTHERS = ["last_checkpoint", "metrics.json", "config.yaml", "results.json", "tower.safetensors", "log.txt", ".lock"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "toy.py").write_text(CONFIG)
    assert main(["--config-file", str(folder / "toy.py"), f"train.output_dir={folder}/out"]) == 0
    return folder


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_damaged_folder_is_no_traceback(made, tmp_path, capsys, seed):
    draw = random.Random(seed)
    out = tmp_path / "out"
    shutil.copytree(made / "out", out)
    damages = [truncate, flip, scribble, replace_by_folder, replace_by_link]
    for name in draw.sample(CHECKPOINTS, draw.choice([1, 1, 2])):
        draw.choice([*damages, pickled, edit, edit, edit, edit])(out / name, draw)
    for name in draw.sample(OTHERS, draw.choice([0, 0, 1, 2])):
        draw.choice(damages if (out / name).stat().st_size else damages[2:])(out / name, draw)
    more = draw.choice([["train.max_iter=14"], ["train.max_iter=14"], ["--eval-only"]])
    before = {name: (out / name).read_bytes() for name in CHECKPOINTS if (out / name).is_file()}
    code = main(["--config-file", str(made / "toy.py"), f"train.output_dir={out}", "--resume", *more])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert code in (0, 1, 2)
    assert len(captured.err.splitlines()) == (code != 0)
    if code == 2:
        assert all((out / name).read_bytes() == content for name, content in before.items())
    elif code == 0 and "--eval-only" not in more:
        assert final(out, 14)["iteration"] == 14


def test_what_is_whole_is_gone_on_from(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made / "out", out)
    truncate(out / CHECKPOINTS[1], random.Random(0))
    assert main(["--config-file", str(made / "toy.py"), f"train.output_dir={out}", "--resume"]) == 0
    assert same(final(out), final(made / "out"))
