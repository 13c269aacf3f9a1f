import os
import signal

import pytest

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data import build_train_loader
from clipself_d2.engine.errors import CheckpointError
from clipself_d2.errors import InputError, Interrupted, RunError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.json: is empty"), 2, "error: x.json: is empty\n"),
        (PermissionError(13, "Permission denied", "x.json"), 2, "error: [Errno 13] Permission denied: 'x.json'\n"),
        (RunError("loss is nan"), 1, "error: loss is nan\n"),
        (CheckpointError("disk is full"), 1, "error: disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted; go on\n"),
        (Interrupted(signal.SIGTERM, "after 3 iterations"), 143, "stopped by SIGTERM after 3 iterations; go on\n"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            1,
            "error: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB): lower the batch "
            "(dataloader.train.total_batch_size, in an evaluation dataloader.test.batch_size) or the image size; in "
            "training also raise train.accumulate, or pass train.activation_checkpointing=true; docs/scaling.md has "
            "what each size takes, and nvidia-smi shows who else uses the GPU\n",
        ),
        (None, 0, ""),
    ],
)
def test_exit_codes(error, code, line, capsys):
    @exit_codes(interrupted="go on")
    def main() -> None:
        if error is not None:
            raise error

    assert main() == code
    assert capsys.readouterr().err == line


def test_sigterm_is_one_line_and_forks_end_as_usual(capsys):
    @exit_codes(interrupted="go on")
    def main() -> None:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)

    assert main() == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; go on\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_reader_of_images_is_one_line(signum, capsys):
    def mapper(record, generator):
        if record["image_id"] == 5:
            os.kill(os.getpid(), signum)
        return record

    @exit_codes()
    def main() -> None:
        records = [{"image_id": i} for i in range(8)]
        batches = iter(build_train_loader(records, mapper, total_batch_size=2, seed=0, num_workers=2))
        for _ in range(8):
            next(batches)

    code = main()
    err = capsys.readouterr().err
    if signum == signal.SIGINT:  # that is for the run to act on
        assert (code, err) == (0, "")
    else:
        assert code == 1 and len(err.splitlines()) == 1
        assert err.startswith("error: a process that reads images ended (DataLoader worker")
        assert "lower dataloader.train.num_workers" in err


def test_a_bug_keeps_its_traceback():
    @exit_codes()
    def main(argv: list[str]) -> None:
        raise KeyError(argv[0])

    with pytest.raises(KeyError):
        main(["x"])


def test_arguments_are_parsed_inside():
    @exit_codes()
    def main(argv: list[str]) -> None:
        ArgumentParser("x").parse_args(argv)

    assert main(["--what"]) == 2
