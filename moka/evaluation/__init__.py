"""Answering benchmarks with an adapter, and scoring the answers; one file a benchmark."""

from moka.evaluation.arguments import EvaluationArguments, parse_arguments
from moka.evaluation.ask import Assistant
from moka.evaluation.baselines import MostCommonAnswer
from moka.evaluation.errors import EvaluationError
from moka.evaluation.music_avqa import MusicAvqa
from moka.evaluation.paired import Paired, compare
from moka.evaluation.predictions import Prediction, read_predictions
from moka.evaluation.report import comparison_table, results_table
from moka.evaluation.results import Results, load_results
from moka.evaluation.run import evaluate
from moka.evaluation.tasks import TASKS, Task

__all__ = [
    "TASKS",
    "Assistant",
    "EvaluationArguments",
    "EvaluationError",
    "MostCommonAnswer",
    "MusicAvqa",
    "Paired",
    "Prediction",
    "Results",
    "Task",
    "compare",
    "comparison_table",
    "evaluate",
    "load_results",
    "parse_arguments",
    "read_predictions",
    "results_table",
]
