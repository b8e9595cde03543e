"""Names what a file is that cannot be read as a table: its text encoding, compression or program."""

from tables.files.table_file import TableFile

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_FORMATS = {
    b"PAR1": "is a Parquet file; name it .parquet",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; unpack it, or save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard; unpack it",
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ": "is compressed with xz; unpack it",
}
_SEPARATORS = {b";": "';'", b"\t": "a tab", b"|": "'|'"}
_LONGEST_HEAD = 1 << 20  # bytes


def foreign_format(file: TableFile) -> str | None:
    """What the first line of a file named .csv says that it is instead; None if it says nothing."""
    try:
        with file.open() as opened:
            head = opened.readline(_LONGEST_HEAD)
    except OSError:
        return None
    if head.startswith(_UTF32_MARKS):
        return "is UTF-32; a CSV is UTF-8"
    # A text in UTF-16 without a mark has a zero in every other byte.
    if head.startswith(_UTF16_MARKS) or (len(head) > 3 and (head[1] == head[3] == 0 or head[0] == head[2] == 0)):
        return "is UTF-16; a CSV is UTF-8"
    for first, problem in _FORMATS.items():
        if head.startswith(first):
            return problem
    if head.lower().startswith(b"sep="):
        return f"the first line is {head.strip().decode(errors='replace')!r}, which only Excel reads; remove it"
    for name in head.split(b","):
        try:
            name.decode()
        except UnicodeDecodeError:
            return f"the head holds bytes that are not UTF-8: {name.strip()[:60]!r}"
    mark = next((mark for mark in _SEPARATORS if mark in head and b"," not in head), None)
    if mark is None:
        return None
    advice = "a CSV is separated by commas, and its numbers have a point"
    return f"the head is one column, separated by {_SEPARATORS[mark]}; {advice}"
