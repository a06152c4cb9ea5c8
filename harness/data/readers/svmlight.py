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
_ID_ZERO = re.compile(r"(?:^|[ \t])0:")
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PAIRS = re.compile(rf"(?:\+?[0-9]+:{_NUMBER}(?:\s+|$))*", re.ASCII)


class SvmlightSource(Source):
    """Rows of ids with values as weights, and one or several labels, joined by commas."""

    unit = "line"
    kind = "sets"

    def __init__(self, path: Path, *, one_based: bool) -> None:
        """`one_based` says that ids start at 1; they are shifted to start at 0."""
        super().__init__(path, path.stem)
        self._first_id = int(one_based)
        self.note = f"ids from {self._first_id}"
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
            elif (row := self._pairs(pairs)) is None:
                problems.add("not a list of id:value", self.where(number))
            else:
                yield number, row, labels if self.is_multi_label else labels[0], ""

    def _pairs(self, pairs: str) -> np.ndarray | None:
        """Returns the ids and values of a line, [n, 2]; None if it has anything else."""
        if _PAIRS.fullmatch(pairs) is None:
            return None
        found = np.fromstring(pairs.replace(":", " "), sep=" ").reshape(-1, 2)
        found[:, 0] -= self._first_id
        ids, values = found[:, 0], np.abs(found[:, 1])
        is_right = ids.min(initial=0) >= 0 and ids.max(initial=0) < INT32_MAX
        return found if is_right and values.max(initial=0) <= _MAX_FLOAT32 else None


def has_id_zero(path: Path) -> bool:
    return any(map(_ID_ZERO.search, lines_of(path, Problems(), remedy=_REMEDY)))


def _name(label: str) -> str:
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label
