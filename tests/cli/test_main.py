"""`clipself`: its list of commands, and what each of them is."""

import runpy
import subprocess
import sys
from importlib import import_module

import pytest

from clipself_d2.cli import COMMANDS, main
from clipself_d2.cli.distill import student_size
from clipself_d2.cli.overrides import clip_overrides


def test_help_lists_every_command_in_80_columns(capsys):
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        lines = capsys.readouterr().out.splitlines()
        assert end.value.code == 0 and max(map(len, lines)) <= 80
        assert {line.split()[0] for line in lines if line.startswith("  ")} >= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_its_name(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    name = "reproduce" if command == "reproduce" else f"clipself {command}"
    assert name in capsys.readouterr().out


def test_a_wrong_command_is_one_line(capsys):
    assert main(["predcit", "x.jpg"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: argument COMMAND: invalid choice: 'predcit'") and err.count("\n") == 1


def test_a_command_gets_its_arguments_and_gives_its_exit_code(monkeypatch):
    seen = []
    monkeypatch.setattr(import_module("clipself_d2.cli.convert"), "main", lambda argv: seen.append(argv) or 7)
    assert main(["convert", "a", "--clip", "x"]) == 7 and seen == [["a", "--clip", "x"]]


def test_help_takes_no_time():
    """At most 2 s of the processor, with the start of Python; nothing heavy is imported."""
    code = (
        "import resource, sys; from clipself_d2.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch = found.stdout.split()[-2:]
    assert float(seconds) < 2 and torch == "False"


def test_the_package_is_the_command_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clipself_d2", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("clipself_d2", run_name="__main__")
    assert end.value.code == 0 and "predict" in capsys.readouterr().out


def test_tables_need_a_clone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("clipself_d2.cli.reproduce.TOOLS", tmp_path)
    assert main(["reproduce", "all"]) == 2
    assert "needs a clone" in capsys.readouterr().err


@pytest.mark.parametrize(("clip", "size"), [("ViT-B-16", 896), ("ViT-L-14-336", 672), ("EVA02-B-16", 896)])
def test_the_student_reads_an_image_at_several_times_the_towers_size(clip, size):
    assert student_size(clip) == [f"model.student_size={size}"]


def test_a_repository_brings_its_own_weights():
    """Not those of the config."""
    assert clip_overrides("hf-hub:a/b", None) == ["clip.name='hf-hub:a/b'", "clip.pretrained=null"]
    assert clip_overrides("hf-hub:a/b", "c.pt") == ["clip.name='hf-hub:a/b'", "clip.pretrained='c.pt'"]
    assert clip_overrides("ViT-B-16", None) == ["clip.name='ViT-B-16'"]
