"""Random cases, trained by `harness.Trainer` and by `keras.Model.fit`.

    python -m benchmarks.differential --case 1234
    python -m benchmarks.differential --cases 2000 --seconds 3600 --json cases.jsonl
    python -m benchmarks.differential --named

A case comes out equal, refused before its first step, different, or in error. The exit code is 1 if
one is different or in error. With `--json` a later call skips the cases that the file has.
"""

import argparse
import os
import sys

# Read when TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# XLA optimizes machine code for longer than these programs run; see tests/conftest.py.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", type=int, help="one seed, described and compared")
    parser.add_argument(
        "--named", nargs="?", const="", help="the named cases, or those whose name begins so"
    )
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none after that")
    parser.add_argument("--json", help="a file of JSON lines, one for each case, that is continued")
    parser.add_argument("--member", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from benchmarks.differential import running

    if given.member is not None:
        from benchmarks.differential.several import be_member

        return be_member(int(given.member[0]), given.member[1])
    if given.case is not None:
        return running.show(given.case)
    if given.named is not None:
        return running.show_named(given.named)
    return running.run(given.first, given.cases, seconds=given.seconds, path=given.json)


if __name__ == "__main__":
    sys.exit(main())
