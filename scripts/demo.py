"""The whole path in one go: build a small world, train projectors, fine-tune with MokA, answer, score, compare."""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from moka.data import load_questions
from moka.data.locate import locate
from moka.evaluation import (
    TASKS,
    MostCommonAnswer,
    compare,
    comparison_table,
    load_results,
    read_predictions,
)

TASK = "music_avqa"


class Demo:
    """The demo's commands, each printed as a user would type it.

    Args:
        world: Prefix of the generated world's names.
        runs: Folder for the runs.
        overrides: Training arguments that replace the configs' own.
    """

    def __init__(self, world: str, runs: Path, overrides: list[str]) -> None:
        self.world = world
        self.runs = runs
        self.overrides = overrides
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Runs every step and prints the table; a step that fails ends the demo with its exit status."""
        self._python("Build the world", "scripts/build_tiny.py", "--world", self.world)
        self._train("Stage 1: train the projectors on captions", "pretrain", "demo_pretrain", "projectors")
        self._train("Stage 2: fine-tune with MokA", "finetune", "demo", "moka")
        self._train(
            "Control: the same, without an adapter", "finetune", "demo", "projectors_only", "--adapter", "none"
        )
        self._evaluate("MokA answers held-out questions", "moka", "test")
        self._evaluate("The same model, given only the question", "moka", "question_only", "--modalities", "text")
        self._evaluate("The control answers", "projectors_only", "test")
        print(f"\nAccuracy (%) on held-out questions, by type\n\n{self._table()}\n\n{self._comparison()}\n")
        for title, seconds in self.seconds.items():
            print(f"{seconds:6.0f} s  {title}")

    def _train(self, title: str, stage: str, config: str, name: str, *options: str) -> None:
        command = ["accelerate", "launch", f"train/{stage}.py", "--config", f"configs/{config}.yaml"]
        command += ["--output_dir", str(self.runs / name), *options]
        if stage == "finetune":
            command += ["--projectors", str(self.runs / "projectors")]
        self._command(title, [*command, *self._names(config), *self.overrides])

    def _names(self, config: str) -> list[str]:
        """The names of another world than the one in the config files."""
        if self.world == "moka-tiny":
            return []
        parts = {"language_model": "llama", "vision_tower": "vision", "audio_tower": "audio", "media": "media"}
        parts["questions"] = "captions.jsonl" if config == "demo_pretrain" else "train.jsonl"
        return [word for key, part in parts.items() for word in (f"--{key}", f"{self.world}/{part}")]

    def _evaluate(self, title: str, name: str, output: str, *options: str) -> None:
        arguments = ["--task", TASK, "--adapter", str(self.runs / name), "--questions", f"{self.world}/test.jsonl"]
        arguments += ["--media", f"{self.world}/media", "--output", str(self.runs / name / output)]
        arguments += ["--batch_size", "64", "--max_new_tokens", "8", "--overwrite", *options]
        self._python(title, "eval/evaluate.py", *arguments)

    def _python(self, title: str, *arguments: str) -> None:
        self._command(title, ["python", *arguments])

    def _command(self, title: str, command: list[str]) -> None:
        print(f"\n=== {title}\n$ {shlex.join(command)}", flush=True)
        started = time.monotonic()
        # The environment's own programs, whether or not it is activated.
        program = Path(sys.executable).with_name(command[0])
        status = subprocess.run([str(program), *command[1:]]).returncode
        if status:
            sys.exit(f"demo.py: this step failed with status {status}: {shlex.join(command)}")
        self.seconds[title] = time.monotonic() - started

    def _table(self) -> str:
        train, test = (load_questions(locate(f"{self.world}/{split}.jsonl")) for split in ("train", "test"))
        runs = {
            "most common answer": TASKS[TASK].score(MostCommonAnswer.fit(train).predict(test)),
            "question only": load_results(self.runs / "moka" / "question_only" / "results.json"),
            "projectors only": load_results(self.runs / "projectors_only" / "test" / "results.json"),
            "MokA": load_results(self.runs / "moka" / "test" / "results.json"),
        }
        return comparison_table(runs, markdown=True)

    def _comparison(self) -> str:
        runs = [self.runs / name / "test" / "predictions.jsonl" for name in ("moka", "projectors_only")]
        paired = compare(TASKS[TASK], *map(read_predictions, runs))
        return (
            f"MokA against the control, on the same {paired.total} questions: {paired.difference:+.2f} points; "
            f"{paired.only_first} only MokA answers, {paired.only_second} only the control "
            f"(exact McNemar test: p = {paired.p_value:.2g})"
        )


def main() -> None:
    """Reads the command line and runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Other arguments go to the training scripts.")
    parser.add_argument("--world", default="moka-tiny", help="generated world; moka-micro is for tests")
    parser.add_argument("--runs", default="runs/demo", type=Path, help="folder for models and answers")
    arguments, overrides = parser.parse_known_args()
    started = time.monotonic()
    Demo(arguments.world, arguments.runs, overrides).run()
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. Models and answers are in {arguments.runs}.")


if __name__ == "__main__":
    main()
