"""Lists of known-bad files in the exchange formats: each read, each kind of malformed line told with its number."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.similarity.hash_lists.reading import Algorithm, HashEntry, HashList, HashListRefused

MD5, SHA1, SHA256 = (
    "9e107d9d372bb6826bd81d3542a419d6",
    "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
    "d7a8fbb307d78094" * 4,
)
PDQ = "2d6b1af3a956c529e79ca3d2526fa834d4196c81cedd04de0a26b855fc99b724"
OTHER_MD5 = "e4d909c290d0fb1ca068ffaddf22cbd0"


def read(text: str | bytes, **how: Any) -> HashList:
    return HashList(io.BytesIO(text if isinstance(text, bytes) else text.encode()), **how)


def told(text: str | bytes, **how: Any) -> list[tuple[str, str, tuple[str, ...], int]]:
    return [(str(e.algorithm), e.value.hex(), e.labels, e.line) for e in read(text, **how)]


def refusal(text: str | bytes, **how: Any) -> HashListRefused:
    with pytest.raises(HashListRefused) as refused:
        list(read(text, **how))
    return refused.value


# text


def test_plain_text_with_comments_and_blank_lines() -> None:
    text = f"# from a partner\n\n{MD5}\r\n  {SHA1.upper()}  \n// end\nsha256:{SHA256}\nPDQ:{PDQ}\n"
    assert told(text) == [("md5", MD5, (), 3), ("sha1", SHA1, (), 4), ("sha256", SHA256, (), 6), ("pdq", PDQ, (), 7)]


def test_what_md5sum_and_the_pdq_tools_write() -> None:
    assert told(f"{MD5}  a, b: c.jpg\n{OTHER_MD5} *film.mp4\n") == [("md5", MD5, (), 1), ("md5", OTHER_MD5, (), 2)]
    assert told(f"{PDQ},100,photo.jpg\n", algorithm=Algorithm.PDQ) == [("pdq", PDQ, (), 1)]


def test_sixty_four_digits_are_never_guessed() -> None:
    assert "SHA-256 or PDQ" in str(refusal(f"{SHA256}\n"))
    assert told(SHA256, algorithm=Algorithm.SHA256)[0][0] == "sha256"
    assert told(PDQ, algorithm=Algorithm.PDQ)[0][0] == "pdq"


def test_labels_of_the_whole_list_come_first() -> None:
    assert told(MD5, labels=("partner-x", "terror"))[0][2] == ("partner-x", "terror")


def test_an_empty_list_has_no_entries() -> None:
    for text in ("", "\n\n", "# nothing\n", "[]", '{"data": []}'):
        assert told(text) == []


# CSV


def test_csv_with_an_algorithm_column() -> None:
    text = f"Hash_Type,Hash,Quality,Category\nmd5,{MD5},,a;b\nPDQ,{PDQ},88,c\nHASH_SHA1,{SHA1},,\n"
    assert told(text) == [("md5", MD5, ("a", "b"), 2), ("pdq", PDQ, ("c",), 3), ("sha1", SHA1, (), 4)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_a_column_for_each_algorithm(delimiter: str) -> None:
    lines = [["id", "MD5", "SHA-1", "pdq", "label"], ["1", MD5, SHA1, "", "x"], ["2", "", "", PDQ, "y"]]
    text = "\n".join(delimiter.join(line) for line in lines)
    assert told(text) == [("md5", MD5, ("x",), 2), ("sha1", SHA1, ("x",), 2), ("pdq", PDQ, ("y",), 3)]


def test_csv_with_quotes_and_a_byte_order_mark() -> None:
    text = f'\ufeff"value","tags"\n"{MD5}","one, two|three"\n'
    assert told(text) == [("md5", MD5, ("one", "two", "three"), 2)]


def test_csv_lines_of_another_width_and_open_quotes_are_bad() -> None:
    found = read(f'hash,category\n{MD5},a,b\n"{SHA1},a\n{OTHER_MD5},a\n', strict=False)
    assert [entry.line for entry in found] == [4]
    assert [(problem.line, problem.reason) for problem in found.problems] == [
        (2, "3 columns where the header has 2"),
        (3, "the quotes do not match"),
    ]


# ThreatExchange


def test_threat_exchange_pages() -> None:
    records = [
        {"id": "1", "indicator": PDQ, "type": "HASH_PDQ", "tags": {"data": [{"id": "7", "text": "media_type_photo"}]}},
        {"id": "2", "indicator": MD5, "type": "HASH_VIDEO_MD5", "tags": ["violent"], "status": "MALICIOUS"},
        {"id": "3", "indicator": {"id": "9", "indicator": SHA1, "type": "HASH_SHA1"}},
    ]
    text = json.dumps({"paging": {"cursors": {"after": "x"}}, "data": records}, indent=1)
    assert [entry[:3] for entry in told(text)] == [
        ("pdq", PDQ, ("media_type_photo",)),
        ("md5", MD5, ("violent",)),
        ("sha1", SHA1, ()),
    ]
    lines = text.splitlines()
    assert all(MD5 in "\n".join(lines[e[3] - 1 : e[3] + 3]) for e in told(text) if e[1] == MD5)


def test_threat_exchange_ndjson() -> None:
    rows = [{"indicator": MD5, "type": "HASH_MD5"}, {"indicator": SHA256, "type": "HASH_SHA256"}]
    assert told("\n".join(map(json.dumps, rows))) == [("md5", MD5, (), 1), ("sha256", SHA256, (), 2)]


def test_withdrawn_harmless_and_foreign_entries_are_skipped_and_counted() -> None:
    rows = [
        {"indicator": MD5, "type": "HASH_MD5", "should_delete": True},
        {"indicator": SHA1, "type": "HASH_SHA1", "status": "NON_MALICIOUS"},
        {"indicator": "example.com", "type": "DOMAIN"},
        {"indicator": "00ff", "type": "HASH_TMK"},
        {"indicator": OTHER_MD5, "type": "HASH_MD5"},
        {"indicator": OTHER_MD5.upper(), "type": "HASH_MD5"},
    ]
    found = read(json.dumps(rows))
    assert [entry.value.hex() for entry in found] == [OTHER_MD5]
    assert found.refused == 0
    assert dict(found.skipped) == {
        "withdrawn": 1,
        "marked as not malicious": 1,
        "'DOMAIN' is not a kind of hash that is matched": 1,
        "'HASH_TMK' is not a kind of hash that is matched": 1,
        "listed before": 1,
    }


# Project VIC


def test_project_vic_media_list() -> None:
    text = json.dumps(
        {
            "@odata.context": "http://github.com/VICSDATAMODEL/ProjectVic/DataModels/2.0.xml/US/$metadata#Media",
            "value": [
                {
                    "MediaID": 1,
                    "Category": 1,
                    "MD5": MD5.upper(),
                    "SHA1": SHA1.upper(),
                    "PhotoDNA": "AAAA",
                    "Tags": "s",
                },
                {"MediaID": 2, "Category": 0, "MD5": OTHER_MD5},
                {"MediaID": 3, "Category": 2, "PDQ": PDQ},
                {"MediaID": 4, "Category": 2, "PhotoDNA": "AAAA"},
            ],
        }
    )
    found = read(text)
    assert [(str(e.algorithm), e.labels) for e in found] == [
        ("md5", ("category:1", "s")),
        ("sha1", ("category:1", "s")),
        ("pdq", ("category:2",)),
    ]
    assert dict(found.skipped) == {"not categorised (category 0)": 1, "no hash of a known kind": 1}


def test_project_vic_cases_hold_media() -> None:
    media = [{"MediaID": n, "Category": 1, "MD5": f"{n:032x}"} for n in range(1, 4)]
    text = json.dumps({"odata.metadata": "1.3.xml#Cases", "value": [{"CaseID": "x", "Media": media, "Notes": [1, {}]}]})
    assert [entry[1] for entry in told(text)] == [f"{n:032x}" for n in range(1, 4)]


# NCMEC

NCMEC = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2">
  <images count="2">
    <image><member id="42">Example Member</member><id>image1</id><classification>A1</classification>
      <fingerprints><md5>{md5}</md5><sha1> {sha1} </sha1><pdna>a1...</pdna></fingerprints>
      <feedback><affirmativeFeedback type="Md5"><members/></affirmativeFeedback></feedback>
    </image>
    <deletedImage><member id="43">Example</member><id>image4</id></deletedImage>
  </images>
  <videos><video><id>video1</id><fingerprints><md5>{other}</md5><tmk-pdqf href="/v2/x"/></fingerprints></video></videos>
  <paging><next>/v2/entries?start=2001&amp;size=1000</next></paging>
</queryResult>
"""


def test_ncmec_xml() -> None:
    found = read(NCMEC.format(md5=MD5, sha1=SHA1, other=OTHER_MD5))
    assert [(str(e.algorithm), e.value.hex(), e.labels, e.line) for e in found] == [
        ("md5", MD5, ("classification:A1",), 4),
        ("sha1", SHA1, ("classification:A1",), 4),
        ("md5", OTHER_MD5, (), 10),
    ]
    assert dict(found.skipped) == {"withdrawn": 1}


def test_ncmec_xml_with_a_bad_digest_or_broken_off() -> None:
    text = NCMEC.format(md5=MD5[1:], sha1=SHA1, other=OTHER_MD5)
    assert [problem.line for problem in refusal(text).problems] == [4]
    broken = read(text.replace(MD5[1:], MD5)[:-60], strict=False)
    assert len(list(broken)) == 3
    assert broken.problems[0].reason == "not XML; nothing after it was read"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "b">]><queryResult/>',
        "<html><image><md5/></image></html>",
        "<queryResult>" + "<a>" * 100,
        f"<queryResult><image><id>{'x' * 2_000_000}</id></image></queryResult>",
        "<queryResult>",
    ],
)
def test_xml_of_another_kind_or_made_to_harm_is_refused(text: str) -> None:
    assert refusal(text).problems


# what is bad


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "no hex digest of 32, 40 or 64 digits"),
        (MD5[:-1], "no hex digest"),
        (MD5[:-1] + "g", "is not a md5 of 32 hex digits"),
        (f"sha1:{MD5}", "is not a sha1 of 40 hex digits"),
        (f"pdq:{PDQ},much", "is not a quality"),
        (",", "no hex digest begins the line"),
        ("é" * 32, "is not a md5"),
        ("٣" * 32, "is not a md5"),  # digits, but not these
    ],
)
def test_a_bad_line_refuses_the_list_or_itself(line: str, reason: str) -> None:
    text = f"{MD5}\n{line}\n{SHA1}\n"
    error = refusal(text)
    assert error.code == "hash_list_refused"
    assert [problem.line for problem in error.problems] == [2]
    assert reason in error.problems[0].reason
    assert f"line 2: {error.problems[0].reason}" in str(error)
    lenient = read(text, strict=False)
    assert [entry.line for entry in lenient] == [1, 3]
    assert [problem.line for problem in lenient.problems] == [2]
    assert lenient.refused == 1


def test_bytes_that_are_not_text_are_bad_lines() -> None:
    found = read(f"{MD5}\n".encode() + b"\xff\xfe\x00\n" + SHA1.encode(), strict=False)
    assert [entry.line for entry in found] == [1, 3]
    assert found.problems[0].reason == "not UTF-8"


def test_a_line_that_never_ends_is_not_held_in_memory() -> None:
    found = read(f"{MD5}\n{'a' * 500_000}\n{SHA1}\n", strict=False)
    assert [entry.line for entry in found] == [1, 3]
    assert "65536 bytes" in found.problems[0].reason


def test_utf_16_is_refused_as_a_whole() -> None:
    assert "cannot be read" in str(refusal(MD5.encode("utf-16"), strict=False))


@pytest.mark.parametrize(
    "record",
    [
        {"indicator": 7, "type": "HASH_MD5"},
        {"indicator": MD5},
        {"indicator": MD5[1:], "type": "HASH_MD5"},
        {"MD5": 12, "Category": 1},
        {"MD5": MD5, "SHA1": "no", "Category": 1},
    ],
)
def test_a_bad_record_refuses_itself_whole(record: dict[str, Any]) -> None:
    rows = [{"indicator": OTHER_MD5, "type": "HASH_MD5"}, record]
    found = read("\n".join(map(json.dumps, rows)), strict=False)
    assert [entry.value.hex() for entry in found] == [OTHER_MD5]
    assert [problem.line for problem in found.problems] == [2]


def test_a_broken_line_of_ndjson_is_one_bad_line() -> None:
    good = json.dumps({"indicator": MD5, "type": "HASH_MD5"})
    found = read(f'{good}\n{{"indicator": oops}}\n[1]\n"text"\n{good.replace(MD5, OTHER_MD5)}\n', strict=False)
    assert [entry.line for entry in found] == [1, 5]
    assert [problem.line for problem in found.problems] == [2, 3, 4]


def test_json_that_breaks_off_says_that_nothing_more_was_read() -> None:
    text = json.dumps({"data": [{"indicator": MD5, "type": "HASH_MD5"}, {"indicator": SHA1, "type": "x"}]}, indent=1)
    found = read(text[:-40], strict=False)
    assert [entry.value.hex() for entry in found] == [MD5]
    assert "nothing after it was read" in found.problems[0].reason
    refusal(text[:-40])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"data": [' * 50, '[{"a": ' + "[" * 5000 + "]"])
def test_deeply_nested_json_is_refused(text: str) -> None:
    refusal(text)


def test_a_record_larger_than_allowed_is_refused() -> None:
    refusal(json.dumps({"x": "y" * 3_000_000, "data": []}))


def test_caps_on_bytes_and_entries_hold_for_lenient_reading_too() -> None:
    assert "larger than 10 bytes" in str(refusal(MD5, max_bytes=10, strict=False))
    many = "".join(f"{n:032x}\n" for n in range(5))
    assert len(told(many, max_entries=5)) == 5
    assert "more than 4 entries" in str(refusal(many, max_entries=4, strict=False))


def test_problems_are_told_up_to_a_hundred_and_counted_beyond() -> None:
    error = refusal("bad\n" * 1000)
    assert len(error.problems) == 100
    assert "1000 lines" in str(error)


def test_labels_are_cleaned() -> None:
    rows = [
        {"indicator": MD5, "type": "HASH_MD5", "tags": ["a\x00b", " ", "x" * 500, "a\x00b", 7, *map(str, range(99))]}
    ]
    labels = told(json.dumps(rows))[0][2]
    assert labels[:2] == ("ab", "x" * 100)
    assert len(labels) == 32


def test_pdq_hashes_that_would_match_every_flat_picture_are_skipped() -> None:
    found = read(f"hash,quality\n{'0' * 64},100\n{PDQ},49\n{PDQ},50\n", algorithm=Algorithm.PDQ)
    assert [entry.line for entry in found] == [4]
    assert dict(found.skipped) == {"PDQ of a picture without detail": 1, "PDQ of quality below 50": 1}


def test_a_large_list_is_read_in_pieces() -> None:
    """Records over many chunks, some across a chunk's edge, none lost and each with its line."""

    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 < size <= 2**16
            return super().read(size)

    rows = ",\n".join(
        json.dumps({"indicator": f"{n:032x}", "type": "HASH_MD5", "é": "ü" * (n % 50)}) for n in range(5000)
    )
    file = Counting(f'{{"data": [\n{rows}\n], "paging": {{}}}}'.encode())
    entries = list(HashList(file))
    assert entries == [HashEntry(Algorithm.MD5, n.to_bytes(16), (), n + 2) for n in range(5000)]


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_reading_ends_well(data: bytes) -> None:
    for strict in (True, False):
        with contextlib.suppress(HashListRefused):
            assert all(len(entry.value) in (16, 20, 32) for entry in read(data, strict=strict))


@given(st.text(alphabet='{}[]",:0123456789abcdef \ndat', max_size=200))
def test_whatever_looks_like_json_is_read_or_told(text: str) -> None:
    for found in (read('{"data": [' + text, strict=False), read(text, strict=False)):
        with contextlib.suppress(HashListRefused):
            assert list(found) == []
