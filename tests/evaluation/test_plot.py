"""Plots of accuracy."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moka.evaluation import EvaluationError, MusicAvqa
from moka.evaluation.plot import plot_accuracy, wilson_interval
from moka.evaluation.results import Tally
from tests.evaluation.helpers import prediction
from tests.evaluation.test_report import NO, YES, run

PLOT = Path(__file__).parents[2] / "eval" / "plot.py"


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, and none of 20.
    assert wilson_interval(Tally(81, 263)) == pytest.approx((25.53, 36.62), abs=0.005)
    assert wilson_interval(Tally(15, 148)) == pytest.approx((6.24, 16.05), abs=0.005)
    assert wilson_interval(Tally(0, 20)) == pytest.approx((0, 16.11), abs=0.005)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_interval_holds_the_accuracy(total: int, share: float) -> None:
    correct = round(share * total)
    low, high = wilson_interval(Tally(correct, total))
    assert 0 <= low <= 100 * correct / total + 1e-9
    assert 100 * correct / total - 1e-9 <= high <= 100
    other_low, other_high = wilson_interval(Tally(total - correct, total))
    assert (low, high) == pytest.approx((100 - other_high, 100 - other_low))


def test_picture_names_runs_and_types(tmp_path: Path) -> None:
    plot_accuracy({"MokA": run(YES, YES, "?"), "question only": run(NO, YES, NO)}, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    # matplotlib writes each text as a comment before its outline.
    for expected in ("MokA", "question only", "Audio/", "Counting", "Overall", "accuracy (%)"):
        assert f"<!-- {expected}" in text
    assert "Temporal" not in text  # no questions of that type
    ElementTree.parse(tmp_path / "a.svg")


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="answered different questions"):
        plot_accuracy({"a": run(YES), "b": run(YES, YES)}, tmp_path / "a.svg")
    with pytest.raises(EvaluationError, match=r"a\.xyz"):
        plot_accuracy({"a": run(YES)}, tmp_path / "a.xyz")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EvaluationError, match=r"\[plots\]"):
        plot_accuracy({"a": run(YES)}, tmp_path / "a.svg")


def test_command_draws_the_results_of_evaluations(tmp_path: Path) -> None:
    for name, text in (("one", YES), ("two", NO)):
        (tmp_path / name).mkdir()
        results = MusicAvqa().score([prediction(text, "yes", type="Audio/Counting")])
        (tmp_path / name / "results.json").write_text(json.dumps(results.to_dict()))
    runs = [f"{name}={tmp_path / name}" for name in ("one", "two")]
    done = command(tmp_path / "a.png", *runs)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for arguments, message in (
        ((runs[0], runs[0]), "same name"),
        (("one",), "must be NAME=FOLDER"),
        ((f"x={tmp_path}",), "results.json"),
    ):
        failed = command(tmp_path / "b.png", *arguments)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
    assert not (tmp_path / "b.png").exists()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PLOT, *map(str, arguments)], capture_output=True, text=True)
