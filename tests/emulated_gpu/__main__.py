"""Trains all of the matrix and prints it as a table: `python -m tests.emulated_gpu`."""

import tempfile
from pathlib import Path

from tests.emulated_gpu.matrix import GROUPS, distances


def main() -> None:
    print("| on the emulated device | loss, relative to the CPU's |\n| --- | --- |")
    for name, group in GROUPS.items():
        with tempfile.TemporaryDirectory() as folder:
            for case, distance in distances(group, Path(folder)).items():
                print(f"| {name}: {case} | {distance:.1e} |", flush=True)


if __name__ == "__main__":
    main()
