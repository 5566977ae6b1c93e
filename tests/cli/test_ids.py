"""The ids of a file: every form that people and their programs write, and every bad line named."""

from __future__ import annotations

import time

import pytest

from revenuebase_compat import ConfigurationError
from revenuebase_compat.cli.ids import decode, read_ids


@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n3\n",
        "1\r\n2\r\n3",
        "1\r2\r3\r",
        "\n# wanted by sales\n 1 \n\n\t2\n  # and these\n3\n\n",
        "process_id\n1\n2\n3\n",
        "file,process_id,owner\na.csv,1,x\nb.csv,2,y\nc.csv,3\n",
        'process_id,file\r\n"1","a, b.csv"\r\n"2","say ""no"".csv"\r\n 3 , c.csv\r\n',
        "\n# exported today\nfile, process_id\n\na, 1\n# not this one\nb, 2\nc, 3\n",
        'note,process_id\n"two\nlines",1\nx,2\n"and\n\nthree",3\n',
        "file;process_id\na,b.csv;1\nc.csv;2\nd.csv;3\n",
        '"file\tname"\tprocess_id\na\t1\nb\t2\nc\t3\n',
        '"a,b",process_id\nx,1\ny,2\nz,3\n',
        '{"process_id": 1}\n{"process_id": "2", "ok": false}\n\n 3 \n',
        "Filename,Process_ID\na.csv,1\nb.csv,2\nc.csv,3\n",
        "Process ID;File\r\n1;a\r\n2;b\r\n3;c\r\n",
        "Process ID;File\r\n1;a\r\n;\r\n2;b\r\n3;c\r\n;\r\n",  # rows that were emptied
        "file\tPROCESS-ID\r\na\t1\r\nb\t2\r\nc\t3\r\n",
        "sep=;\r\nfile,1;processId\r\na,b;1\r\nc;2\r\nd;3\r\n",
        '{"file": "a\x85b\u2028c", "process_id": 1}\n{"process_id": 2}\r\n{"process_id": 3}',
    ],
)
def test_ids_in_every_form(text: str) -> None:
    assert list(read_ids(text, "ids")) == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "\n", "# none\n\n", "process_id\n", "process_id,file\n\n"])
def test_a_file_without_ids(text: str) -> None:
    assert list(read_ids(text, "ids")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n\n# two\nx\n", "ids, line 4: process_id 'x' is no process id: give an int from 1"),
        ("1\n-2\n", "ids, line 2: process_id '-2'"),
        ("1 2\n", "ids, line 1: process_id '1 2'"),
        ("1\n[2, 3]\n", "ids, line 2: process_id '[2, 3]'"),
        ("# of today\nid;file\n1;a\n", "ids, line 2: no column is named process_id, but 'id;file'"),
        ("job\n1\n", "ids, line 1: process_id 'job'"),
        ("9" * 5000, "ids, line 1: process_id"),
        ("process_id,file\n1,a\n\n,b\n", "ids, line 4: process_id ''"),
        ("file,process_id\na,1\nb\n", "ids, line 3: process_id ''"),
        ('note,process_id\n"two\nlines",1\n"two\nmore",x\n', "ids, line 4: process_id 'x'"),
        ('process_id,n\n1,"' + "x" * 200_000, "ids, after line 1: field larger than field limit"),
        (
            '{"process_id": 1}\n{"id": 2}\n',
            "ids, line 2: give a JSON object with a process_id, not",
        ),
        ('{"process_id": 1.0}\n', "ids, line 1: process_id 1.0"),
        ('{"process_id": true}\n', "ids, line 1: process_id True"),
        ('{"process_id": 1\n', "ids, line 1: give a JSON object"),
        ('{"process_id": ' + "9" * 5000 + "}", "ids, line 1: "),
        ('{"a": ' + "[" * 100_000, "ids, line 1: give a JSON object"),
    ],
)
def test_a_bad_line_is_named_by_its_number(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        list(read_ids(text, "ids"))
    assert str(raised.value).startswith(words)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("form", ["{}", '{{"process_id": {}}}', "{},a.csv"])
def test_a_hundred_thousand_lines(form: str) -> None:
    text = "process_id,file\n" * form.endswith("csv")
    text += "\n".join(form.format(number) for number in range(1, 100_001))
    began = time.process_time()
    assert list(read_ids(text, "ids")) == list(range(1, 100_001))
    assert time.process_time() - began < 2


TABLE = "Datei;Process_ID\r\nä.csv;1\r\nb.csv;2\r\n"


@pytest.mark.parametrize(
    "data",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        b"\xfe\xff" + TABLE.encode("utf-16-be"),
        TABLE.encode("utf-16-le"),
        TABLE.encode("utf-16-be"),
        TABLE.encode("cp1252"),
        b"1\n2\n",
        "1\r\n2\r\n".encode("utf-16"),
    ],
)
def test_decode_reads_what_spreadsheets_save(data: bytes) -> None:
    assert read_ids(decode(data, "ids"), "ids") == [1, 2]


def test_decode_leaves_nothing_unread() -> None:
    assert decode(b"", "ids") == ""
    with pytest.raises(ConfigurationError, match=r"ids, line 2: process_id '..xff'"):
        read_ids(decode(b"1\n\xff\n2\n", "ids"), "ids")
    with pytest.raises(ConfigurationError, match="line 1"):
        read_ids(decode("12".encode("utf-16") + b"3", "ids"), "ids")


@pytest.mark.parametrize(("bad", "more"), [(2, 0), (20, 0), (21, 1), (50_000, 49_980)])
def test_read_ids_names_every_bad_line_up_to_twenty(bad: int, more: int) -> None:
    text = "1\n" + "".join(f"x{number}\n" for number in range(bad))
    with pytest.raises(ConfigurationError) as raised:
        read_ids(text, "ids.csv")
    first, *named = str(raised.value).splitlines()
    assert first == f"ids.csv: {bad} lines hold no process_id (a whole number from 1 on):"
    shown = min(bad, 20)
    assert named[:shown] == [f"  line {number + 2}: 'x{number}'" for number in range(shown)]
    assert named[shown:] == ([f"  and {more} more"] if more else [])
