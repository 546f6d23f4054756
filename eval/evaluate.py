"""Answers a benchmark's questions with an adapter, scores the answers and prints accuracy by question type."""

import logging
import sys

from moka.evaluation import EvaluationError, evaluate, parse_arguments, results_table


def main() -> None:
    """Runs one evaluation from the command line."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("moka").setLevel(logging.INFO)
    try:
        arguments = parse_arguments(sys.argv[1:], description=__doc__)
        results = evaluate(arguments)
    except (EvaluationError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the answers so far are kept; the same command without --overwrite goes on from them")
    print(results_table(results))
    print(f"\nPredictions and results: {arguments.output_folder()}")


if __name__ == "__main__":
    main()
