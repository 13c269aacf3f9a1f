"""What importing the package loads."""

import multiprocessing
import sys


def loaded(names, answers):
    """Import the package in a new process, which has its frameworks; put those of the names that are loaded then."""
    import clipself_d2.evaluation  # noqa: F401

    answers.put(sorted(names & set(sys.modules)))


def test_lvis_and_panopticapi_are_imported_when_they_are_used():
    context = multiprocessing.get_context("forkserver")
    answers = context.SimpleQueue()
    process = context.Process(target=loaded, args=({"lvis", "panopticapi", "matplotlib"}, answers))
    process.start()
    process.join()
    assert process.exitcode == 0 and answers.get() == []
