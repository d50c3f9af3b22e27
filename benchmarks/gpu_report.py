"""Everything that one wants to know of a GPU, by one command that may be called again until it is done.

    python -m benchmarks.gpu_report --datapath data                       # at most ten minutes; the next call goes on
    python -m benchmarks.gpu_report --only step sdpa --minutes 5
    python -m benchmarks.gpu_report --device cpu --tiny                   # a rehearsal: nothing of it means anything

Each row is measured in a process of its own and stored in OUT.json as soon as it is there, with the tables in OUT.md.
docs/gpu.md says what the rows are and how to read them. Prints one JSON object.
"""

import sys
import time

from benchmarks import _gpu_needs


def main() -> None:
    """Name what is missing before anything of ours is imported: without tyro not even flags can be read."""
    began = time.monotonic()
    missing = _gpu_needs.missing_packages()
    for line in _gpu_needs.lines(missing):
        print(line, file=sys.stderr, flush=True)
    if missing.keys() & _gpu_needs.EVERYTHING:
        sys.exit(2)
    from benchmarks import _gpu_report
    from multicrop import cli

    cli.main(_gpu_report.Recipe, lambda recipe: _gpu_report.report(recipe, began))


if __name__ == "__main__":
    main()
