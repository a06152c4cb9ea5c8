"""CSV and TSV: which columns are read, and what is wrong with single rows or with the file."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source
from harness.data.readers.records import MAX_TEXT_BYTES

Reader = Callable[..., Any]
Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """write(content, name) -> path"""

    def write(content: str | bytes, name: str = "reviews.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_columns_by_their_names(write: Writer, read: Reader) -> None:
    source = open_source(write("id,Review,sentiment\n1,good film,pos\n2,bad film, neg \n"))
    rows = read(source)
    assert rows.contents == ["good film", "bad film"]
    assert rows.labels == ["pos", "neg"]
    assert rows.parts == ["", ""]
    assert source.name == "reviews"
    assert source.note == "text from column Review, labels from column sentiment"


def test_columns_that_the_user_names(write: Writer, read: Reader) -> None:
    path = write("a,b,c\nx,1,good\ny,2,bad\n")
    rows = read(open_source(path, BuildOptions(text_column="c", label_column="a")))
    assert (rows.contents, rows.labels) == (["good", "bad"], ["x", "y"])
    with pytest.raises(InputError, match=r"no column d. Its columns are a, b, c. Set --text-col"):
        open_source(path, BuildOptions(text_column="d"))
    with pytest.raises(InputError, match=r"which column is the text. Its columns are a, b, c\."):
        open_source(path)


def test_two_columns_without_known_names(write: Writer, read: Reader) -> None:
    table = "kind,words\npos,a rather long text\nneg,another such text\n"
    assert read(open_source(write(table))).labels == ["pos", "neg"]
    text_is_known = "message,kind\nhello,greeting\n"
    assert read(open_source(write(text_is_known))).labels == ["greeting"]
    label_is_known = "kind,label\nhello,1\n"
    assert read(open_source(write(label_is_known))).contents == ["hello"]


def test_a_file_without_a_header(write: Writer, read: Reader) -> None:
    """GoEmotions is published in this form: text, numbers of emotions joined by commas, id."""
    path = write('"Good", he said.\t27\ta1\nI "know\t3,14\ta2\n', "emotions.tsv")
    with pytest.raises(InputError, match=r"Its columns are 1, 2, 3\. Set"):
        open_source(path)
    source = open_source(path, BuildOptions(text_column="1", label_column="2", label_separator=","))
    rows = read(source)
    assert rows.contents == ['"Good", he said.', 'I "know']
    assert rows.labels == [["27"], ["3", "14"]]
    assert source.note.endswith("the file has no header")


def test_a_first_row_whose_label_occurs_again_is_no_header(write: Writer, read: Reader) -> None:
    for first in ("good movie,pos", "pos,pos", "is it a good movie or not?,question"):
        label = first.partition(",")[2]
        rows = read(open_source(write(f"{first}\nbad movie,neg\nfine movie,{label}\n")))
        assert rows.contents == [first.partition(",")[0], "bad movie", "fine movie"]
    numbers = BuildOptions(text_column="2", label_column="1")
    assert read(open_source(write("question,why\norder,go\n"), numbers)).labels == [
        "question",
        "order",
    ]


def test_semicolons_quotes_and_line_breaks(write: Writer, read: Reader) -> None:
    path = write(
        '\ufeffsep=;\r\ntext;label\r\n"one, ""two""\nthree";a\r\n\r\n=cmd|\' /C calc\'!A0;b\r\n'
    )
    assert read(open_source(path)).contents == ['one, "two"\nthree', "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("first", ['text;"label, final"', "dull, long;neg"])
def test_commas_in_texts_between_semicolons(write: Writer, read: Reader, first: str) -> None:
    rows = read(open_source(write(f"{first}\ngood, if short;pos\nbad;neg\nfair, at times;pos\n")))
    assert rows.contents[-3:] == ["good, if short", "bad", "fair, at times"]
    assert rows.labels[-3:] == ["pos", "neg", "pos"]


def test_a_semicolon_before_a_quote_in_a_text(write: Writer, read: Reader) -> None:
    rows = read(open_source(write('dull;"a long bore,neg\na good film,pos\na bad film,neg\n')))
    assert rows.contents[0] == 'dull;"a long bore'
    with pytest.raises(InputError, match="never closed"):
        open_source(write('"dull;a bore,neg\ngood,pos\n'))


def test_wrong_rows_are_counted(write: Writer, read: Reader) -> None:
    path = write(
        b"text,label\ngood,1\nshort\nlong,1,2\nn\0l,1\n\xff\xfebad,0\n,0\n   ,0\nno label,\n"
    )
    rows = read(open_source(path))
    assert rows.contents == ["good", "\ufffd\ufffdbad", "", ""]
    assert rows.labels == ["1", "0", "0", "0"]
    assert rows.problems.counts == {
        "too few columns": 1,
        "too many columns": 1,
        "NUL character": 1,
        "invalid UTF-8, replaced by U+FFFD: save the texts as UTF-8": 1,
        "empty text": 2,
        "empty label": 1,
    }
    assert rows.problems.first["too few columns"] == f"{path}, line 3"
    assert rows.problems.first["empty text"] == f"{path}, line 7"


def test_strict_makes_the_first_problem_an_error(write: Writer, read: Reader) -> None:
    source = open_source(write("text,label\ngood,1\nshort\n"))
    with pytest.raises(InputError, match=r"csv, line 3: too few columns\. .* leave out --strict"):
        read(source, strict=True)


def test_blocks_are_about_as_large_as_asked_for(write: Writer, read: Reader) -> None:
    source = open_source(write("text,label\n" + "ten letters,1\n" * 100))
    rows = read(source, block_bytes=110)
    assert rows.num_rows == [10] * 10
    assert rows.contents == read(source).contents


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("x" * (MAX_TEXT_BYTES + 10) + ",1\n", "csv, line 2"),
        ('"never closed,1\n' + "good,1\n" * 1_142_857, "the row that begins at line 2"),
        ('"' + '\n","' * 2_000_000, "the row that begins at line 2"),
    ],
)
def test_a_very_long_row_is_one_message(
    write: Writer, read: Reader, content: str, fact: str
) -> None:
    csv.field_size_limit(10 * MAX_TEXT_BYTES)  # as another module may set it
    with pytest.raises(InputError, match=f"{fact} is longer than 8,000,000 bytes.*each quote"):
        read(open_source(write(f"text,label\n{content}")))


def test_a_quote_that_is_never_closed_does_not_swallow_rows(write: Writer, read: Reader) -> None:
    path = write('text,label\ngood,1\n"bad,0\nfine,1\n')
    with pytest.raises(InputError, match="the row that begins at line 3 is never closed"):
        read(open_source(path))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "empty.csv", "has no rows"),
        ("text,label\n".encode("utf-16"), "wide.csv", "encoded in UTF-16. Save it as UTF-8"),
        ("text,label\r1,2\r", "old.csv", "old.csv, line 1: new-line character"),
    ],
)
def test_no_such_table(write: Writer, content: str | bytes, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(write(content, name))
