"""Blocks of numbered rows, kept in files of their own while a data set is built.

Letters: B rows, T distinct tokens, C distinct labels of a block.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Part
from harness.data.tokens import Numbered, numbered_rows
from harness.errors import InputError
from harness.reading import damage
from kernels.files import replacing

_PARTS: tuple[Part, ...] = ("", "train", "test")
_END = "\0"
"""Behind each string of a list; readers accept no text that holds it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedBlock:
    """B rows whose tokens and labels are numbered within the block."""

    part: Part
    tokens: list[str] | None
    """[T]; None: `values` are ids already."""
    values: npt.NDArray[np.int32]
    row_splits: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    """Of the contents of rows, [B]: equal rows have equal ones."""
    labels: Numbered
    """One in each row, or several."""
    is_multi_label: bool
    weights: npt.NDArray[np.float32] | None = None
    """Of `values`, where those are ids that came with some."""

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.digests)

    def save(self, path: Path) -> None:
        """Writes the block, whole or not at all."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "part": np.array(_PARTS.index(self.part)),
            "values": self.values,
            "row_splits": self.row_splits,
            "digests": self.digests,
            "labels": _packed(self.labels.tokens),
            "label_values": self.labels.values,
            "label_splits": self.labels.row_splits,
            "is_multi_label": np.array(self.is_multi_label),
        }
        if self.tokens is not None:
            arrays["tokens"] = _packed(self.tokens)
        if self.weights is not None:
            arrays["weights"] = self.weights
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "NumberedBlock":
        """Reads what `save` wrote.

        Raises:
            InputError: it is damaged.
        """
        remedy = "Remove the folder that it lies in, and build again."
        with damage(path, what="a block of rows", remedy=remedy), np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
            return cls(
                part=_PARTS[int(arrays["part"])],
                tokens=_unpacked(arrays["tokens"]) if "tokens" in arrays else None,
                values=arrays["values"],
                row_splits=arrays["row_splits"],
                digests=arrays["digests"],
                labels=Numbered(
                    tokens=_unpacked(arrays["labels"]),
                    values=arrays["label_values"],
                    row_splits=arrays["label_splits"],
                ),
                is_multi_label=bool(arrays["is_multi_label"]),
                weights=arrays.get("weights"),
            )


def block_of(
    block: Block, found: Numbered | RaggedSets, digests: Sequence[int], *, where: str
) -> NumberedBlock:
    """A block whose rows were numbered, with its labels.

    Args:
        block: of a source.
        found: its rows.
        digests: of its rows.
        where: it is from, for messages.

    Raises:
        InputError: it has no labels.
    """
    if block.labels is None:
        raise InputError(f"{where} has no labels, which training needs. Give some.")
    is_multi_label = any(not isinstance(label, str) for label in block.labels)
    labels = [[label] if isinstance(label, str) else label for label in block.labels]
    return NumberedBlock(
        part=block.part,
        tokens=found.tokens if isinstance(found, Numbered) else None,
        values=found.values,
        row_splits=found.row_splits,
        digests=np.array(digests, np.uint64),
        labels=numbered_rows(labels),
        is_multi_label=is_multi_label,
        weights=None if isinstance(found, Numbered) else found.weights,
    )


def digests_of(rows: Iterable[bytes]) -> list[int]:
    """64 bits of each row's content; an empty row has 0."""
    return [
        int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") if row else 0
        for row in rows
    ]


def digests_of_sets(sets: RaggedSets) -> list[int]:
    """As `digests_of`, of rows of ids with their weights."""
    content, splits = sets.values.tobytes(), (4 * sets.row_splits).tolist()
    # Another block may have weights, and a row like one of this block.
    weights = (np.ones(sets.nnz, np.float32) if sets.weights is None else sets.weights).tobytes()
    return digests_of(
        content[start:stop] + weights[start:stop] for start, stop in itertools.pairwise(splits)
    )


def _packed(strings: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("".join([string + _END for string in strings]).encode(), np.uint8)


def _unpacked(content: npt.NDArray[np.uint8]) -> list[str]:
    return content.tobytes().decode().split(_END)[:-1]
