import pytest

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.engine.errors import CheckpointError
from clipself_d2.errors import InputError, RunError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.json: is empty"), 2, "error: x.json: is empty\n"),
        (PermissionError(13, "Permission denied", "x.json"), 2, "error: [Errno 13] Permission denied: 'x.json'\n"),
        (RunError("loss is nan"), 1, "error: loss is nan\n"),
        (CheckpointError("disk is full"), 1, "error: disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted; go on\n"),
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
