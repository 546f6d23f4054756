"""The folder of a run: predictions.jsonl, run.json saying what made them, and results.json once all are there."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moka.evaluation.files import write_json
from moka.evaluation.predictions import (
    Prediction,
    PredictionsError,
    read_predictions,
    recover_predictions,
    write_predictions,
)
from moka.evaluation.results import Results
from moka.evaluation.tasks import Task

logger = logging.getLogger(__name__)


class RunFolder:
    """Keeps the answers of one run, and those of another out.

    Args:
        folder: Where the files are.
        identity: Everything that an answer depends on, as JSON types.
        information: More about the run, for people; it may differ when the run is resumed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], information: Mapping[str, Any]) -> None:
        self.predictions = folder / "predictions.jsonl"
        self.run = folder / "run.json"
        self.results = folder / "results.json"
        # As it will be read back: tuples are lists in JSON.
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.information = dict(information)

    def open(self, *, overwrite: bool = False) -> list[Prediction]:
        """Prepares the folder, and returns what an earlier, interrupted part of the same run answered.

        Args:
            overwrite: Delete an earlier run's files instead.

        Raises:
            PredictionsError: The predictions were made by another run, or it is not known by which, or are damaged.
        """
        self.predictions.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            # The predictions first: without them, the other two vouch for nothing.
            for file in (self.predictions, self.run, self.results):
                file.unlink(missing_ok=True)
        rows: list[Prediction] = []
        if self.predictions.exists():
            self._refuse_other_run()
            rows, cut = recover_predictions(self.predictions)
            if cut:
                logger.warning("%s: its last line was cut short; that question is answered again", self.predictions)
        # A results.json means that the run is complete.
        self.results.unlink(missing_ok=True)
        write_json(self.run, {"identity": self.identity, "information": self.information})
        return rows

    def finish(self, task: Task, ids: Sequence[str], count: int) -> Results:
        """Puts the predictions into the order of the question set, scores them and writes results.json.

        Args:
            task: The benchmark.
            ids: The question ids of the whole set, in order.
            count: How many of them, from the first on, are scored.

        Raises:
            PredictionsError: A prediction belongs to no question, or a question has none.
        """
        rows = {row["question_id"]: row for row in read_predictions(self.predictions)}
        foreign = sorted(rows.keys() - set(ids))
        missing = [name for name in ids[:count] if name not in rows]
        if foreign or missing:
            raise PredictionsError(
                f"{self.predictions} does not fit the question set: {len(foreign)} answers to unknown questions "
                f"{foreign[:5]}, {len(missing)} questions without answer {missing[:5]}; start anew with --overwrite"
            )
        write_predictions(self.predictions, [rows[name] for name in ids if name in rows])
        scored = [(row, rows[name]) for row, name in enumerate(ids[:count])]
        results = task.score(row for _, row in scored)
        failures = [
            {"row": row, "question_id": prediction["question_id"], **problem}
            for row, prediction in scored
            for problem in prediction["media_errors"]
        ]
        run = {"identity": self.identity, "information": self.information}
        write_json(self.results, {**results.to_dict(), "media_failures": failures, "run": run})
        return results

    def _refuse_other_run(self) -> None:
        remedy = "choose another --output, or start anew with --overwrite"
        try:
            found = json.loads(self.run.read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PredictionsError(
                f"{self.predictions} exists, but {self.run} does not tell which run made it "
                f"({type(error).__name__}); {remedy}"
            ) from error
        differences = [
            f"  {key}: {_short(found.get(key))} there, {_short(self.identity.get(key))} now"
            for key in sorted(self.identity.keys() | found.keys())
            if found.get(key) != self.identity.get(key)
        ]
        if differences:
            lines = "\n".join(differences)
            raise PredictionsError(f"{self.predictions} was made by another run:\n{lines}\nTo go on, {remedy}")


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"content {value[:12]}"
    return json.dumps(value, ensure_ascii=False)
