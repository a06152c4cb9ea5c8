"""Files of svmlight and libsvm, with lines of the form `label id:value id:value ... # comment`."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.checks import INT32_MAX
from harness.data.readers.records import Part, Problems, Source, lines_of

_REMEDY = "Give a file with `label id:value id:value ...` in each line."
_SAMPLE_LINES = 1000
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PAIRS = re.compile(rf"(?:\+?[0-9]+:{_NUMBER}(?:\s+|$))*", re.ASCII)


class SvmlightSource(Source):
    """Rows of ids with values as weights, and one or several labels, joined by commas. Ids are
    those of the file: where the first is 1, no row has the id 0."""

    unit = "line"
    kind = "sets"

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.stem)
        sample = itertools.islice(lines_of(path, Problems(), remedy=_REMEDY), _SAMPLE_LINES)
        heads = [line.partition(" ")[0] for line in sample if line.partition("#")[0].strip()]
        self.is_multi_label = any("," in head or not head or ":" in head for head in heads)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        for number, line in enumerate(lines_of(self.path, problems, remedy=_REMEDY), 1):
            line = line.partition("#")[0].strip()
            head, _, pairs = line.replace("\t", " ").partition(" ")
            if ":" in head:
                head, pairs = "", line
            if not line:
                continue
            pairs = pairs.strip()
            if pairs.startswith("qid:"):
                problems.add("qid, which is not used", self.where(number))
                pairs = pairs.partition(" ")[2].strip()
            labels = [_name(part) for part in head.split(",") if part]
            if not self.is_multi_label and len(labels) != 1:
                problems.add("several labels" if labels else "empty label", self.where(number))
            elif (row := _pairs(pairs)) is None:
                problems.add("not a list of id:value", self.where(number))
            else:
                yield number, row, labels if self.is_multi_label else labels[0], ""


def _pairs(pairs: str) -> np.ndarray | None:
    """Returns the ids and values of a line, [n, 2]; None if it has anything else."""
    if _PAIRS.fullmatch(pairs) is None:
        return None
    found = np.fromstring(pairs.replace(":", " "), sep=" ").reshape(-1, 2)
    highest, largest = found[:, 0].max(initial=0), np.abs(found[:, 1]).max(initial=0)
    return found if highest < INT32_MAX and largest <= _MAX_FLOAT32 else None


def _name(label: str) -> str:
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label
