"""Files of svmlight and libsvm, with lines of the form `label id:value id:value ... # comment`."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.base.checks import INT32_MAX
from harness.base.reading import opened
from harness.data.ragged import RaggedSets
from harness.data.readers.lines import lines_of
from harness.data.readers.records import Block, Problems, RowFormat, Source
from harness.data.readers.rows import BLOCK_BYTES

_REMEDY = "Give a file with `label id:value id:value ...` in each line."
_SAMPLE_LINES = 1000
_PIECE_BYTES = 1 << 20
_PAIR_BYTES = 8
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_ZEROS = (b" 0:", b"\t0:")


class _Row(NamedTuple):
    labels: list[str]
    ids: list[int]
    values: list[float]


class SvmlightSource(Source):
    """Rows of ids with values as weights, and one or several labels, joined by commas."""

    def __init__(self, path: Path, *, one_based: bool) -> None:
        """Args:
        path: the file.
        one_based: whether ids start at 1; they are shifted to start at 0.
        """
        self.path, self.name = path, path.stem
        self._first_id = int(one_based)
        sample = itertools.islice(lines_of(path, Problems(), remedy=_REMEDY), _SAMPLE_LINES)
        heads = [line.partition(" ")[0] for _, _, line in sample if line.partition("#")[0].strip()]
        is_multi_label = any("," in head or not head or ":" in head for head in heads)
        self._form = RowFormat(path=path, unit="line", kind="sets", is_multi_label=is_multi_label)
        self.note = f"ids from {self._first_id}"

    def blocks(self, problems: Problems) -> Iterator[Block]:
        rows: list[_Row] = []
        num_pairs = 0
        for row in self._rows(problems):
            rows.append(row)
            num_pairs += len(row.ids)
            if num_pairs * _PAIR_BYTES >= BLOCK_BYTES:
                yield self._block(rows)
                rows, num_pairs = [], 0
        if rows:
            yield self._block(rows)

    def _block(self, rows: list[_Row]) -> Block:
        ids = np.array([one for row in rows for one in row.ids], np.int32)
        values = [value for row in rows for value in row.values]
        sets = RaggedSets(
            values=ids,
            row_splits=np.cumsum([0, *(len(row.ids) for row in rows)]),
            num_tokens=int(ids.max(initial=0)) + 1,
            name=str(self.path),
            weights=np.array(values, np.float32) if any(one != 1 for one in values) else None,
        )
        labels = [row.labels if self._form.is_multi_label else row.labels[0] for row in rows]
        is_multi_label = self._form.is_multi_label
        return Block(kind="sets", contents=sets, is_multi_label=is_multi_label, labels=labels)

    def _rows(self, problems: Problems) -> Iterator[_Row]:
        for number, _, line in lines_of(self.path, problems, remedy=_REMEDY):
            head, *pairs = line.partition("#")[0].split() or [""]
            if ":" in head:
                head, pairs = "", [head, *pairs]
            if not head and not pairs:
                continue
            where = self._form.where(number)
            if pairs and pairs[0].startswith("qid:"):
                problems.add("qid, which is not used", where)
                del pairs[0]
            names = [_name(part) for part in head.split(",") if part]
            if not self._form.is_multi_label and len(names) != 1:
                problems.add("several labels" if names else "empty label", where)
                continue
            try:
                ids, values = self._pairs(pairs)
            except (ValueError, OverflowError):
                problems.add("not a list of id:value", where)
                continue
            if not ids:
                problems.add("empty row", where)
            yield _Row(names, ids, values)

    def _pairs(self, pairs: list[str]) -> tuple[list[int], list[float]]:
        """Returns the ids and values of a line; raises ValueError if it has anything else."""
        flat = ":".join(pairs).split(":") if pairs else []
        ids = [int(text) - self._first_id for text in flat[0::2]]
        values = list(map(float, flat[1::2]))
        if len(flat) != 2 * len(pairs) or "\0" in "".join(flat):
            raise ValueError
        if ids and (min(ids) < 0 or max(ids) >= INT32_MAX):
            raise ValueError
        if not all(map(math.isfinite, values)) or max(map(abs, values), default=0) > _MAX_FLOAT32:
            raise ValueError
        return ids, values


def has_id_zero(path: Path) -> bool:
    with opened(path, remedy=_REMEDY) as file:
        end = b""
        while piece := file.read(_PIECE_BYTES):
            piece = end + piece
            if any(zero in piece for zero in _ZEROS):
                return True
            end = piece[-2:]
    return False


def _name(label: str) -> str:
    """Returns the name of a class, such as 1 for +1 and 1.0."""
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label
