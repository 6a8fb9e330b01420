"""Reads the numbers, dates, times and words of a closed set that a text says, in the forms of data/spoken.py and the
commonest others: `1,000`, `twenty-five`, `3rd of March 2026`, `7:30 pm`.

What may say a value in yet another way (`half past five`, `next Friday`, `a couple`) is no value here but a hint that
there is one.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from calltune.data.copied import word_edge
from calltune.data.spoken import MONTHS, SMALL

Kind = Literal["number", "date", "time", "choice"]
Value = str | int | float

TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: i for i, word in enumerate((*SMALL, *TEENS))} | {word: 10 * i for i, word in enumerate(TENS, 2)}

ISO_DAY, CLOCK = re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]}|\\.|t\\.?)?" if len(month) > 3 else month for month in MONTHS)
DATES = re.compile(
    rf"(?<![\w-])(?:(?P<y1>\d{{4}})[-/](?P<m1>\d\d?)[-/](?P<d1>\d\d?)"
    rf"|(?P<m2>{_MONTH})\s+(?P<d2>\d\d?)(?:st|nd|rd|th)?,?\s+(?P<y2>\d{{4}})"
    rf"|(?P<d3>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m3>{_MONTH}),?\s+(?P<y3>\d{{4}}))(?![\w-])",
    re.IGNORECASE,
)
TIMES = re.compile(
    r"(?<![\w:.,])(?:(?P<h1>\d\d?):(?P<m1>[0-5]\d)(?!\d|:\d)(?:\s*(?P<half1>[ap])\.?m\b)?"
    r"|(?P<h2>\d\d?)(?:\.(?P<m2>[0-5]\d))?\s*(?P<half2>[ap])\.?m\b)",
    re.IGNORECASE,
)
NUMBERS = re.compile(
    r"(?<![\w.,-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d-])"
    rf"|\b(?:(?:{'|'.join(TENS)})[- ](?:{'|'.join(SMALL[1:10])})|{'|'.join(WORDS)})\b",
    re.IGNORECASE,
)
_DAYS = "(?:mon|tues|wednes|thurs|fri|satur|sun)days?"
HINTS: Mapping[Kind, re.Pattern[str]] = {
    "number": re.compile(
        r"\b(?:hundreds?|thousands?|millions?|k|couple|pair|dozens?|half|quarters?|double|twice|triple|fortnight|"
        r"an? (?:minute|hour|day|week|month|year|decade)|once|both|first|second|third|noon|midnight)\b|(?<![\w.-])\d",
        re.IGNORECASE,
    ),
    "date": re.compile(
        rf"\b(?:today|tomorrow|tonight|yesterday|{_DAYS}|{_MONTH}|weekend|(?:next|this|last) (?:week|month|year)|"
        r"(?:christmas|new year|easter)\w*|in \w+ (?:days?|weeks?|months?))\b|\d/\d|\d\.\d\d?\.", re.IGNORECASE
    ),
    "time": re.compile(
        r"\b(?:noon|midnight|midday|o.?clock|half past|quarter|past|morning|afternoon|evening|tonight|"
        r"in \w+ (?:hours?|minutes?))\b|\d\s*[ap]\.?m|\bat \d", re.IGNORECASE
    ),
}  # fmt: skip


def kind_of(value: Any, schema: Mapping[str, Any]) -> Kind | None:
    """Of which kind a value of that schema is; None for one that cannot be listed."""
    if "enum" in schema:
        words = isinstance(schema["enum"], list) and all(isinstance(word, str) for word in schema["enum"])
        return "choice" if words else None
    if isinstance(value, str):
        return "date" if ISO_DAY.fullmatch(value) else "time" if CLOCK.fullmatch(value) else None
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_hinted(text: str, kind: Kind) -> bool:
    """Whether the text may say a value of the kind in words that `values_told` does not read."""
    if kind == "choice":
        return False
    left = TIMES.sub(" ", DATES.sub(" ", text))
    if kind == "number":
        left = NUMBERS.sub(" ", left)
    return HINTS[kind].search(left) is not None


def values_told(text: str, kind: Kind, words: Sequence[Any] = ()) -> Iterator[Value]:
    """The values of a kind that a text says; `words` are those of the closed set."""
    if kind == "choice":
        yield from (word for word in words if isinstance(word, str) and _is_named(word, text))
    elif kind == "date":
        yield from _dates(text)
    elif kind == "time":
        yield from _times(text)
    else:
        yield from _numbers(TIMES.sub(" ", DATES.sub(" ", text)))


def _is_named(word: str, text: str) -> bool:
    """Whether a word stands in the text, whatever its letters' case; `living_room` as two words too."""
    pattern = r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", word)))
    found = re.finditer(pattern, text, re.IGNORECASE)
    return any(word_edge(text, m.start()) and word_edge(text, m.end()) for m in found)


def _dates(text: str) -> Iterator[str]:
    for found in DATES.finditer(text):
        year, month, day = (next(filter(None, (found[f"{part}{i}"] for i in (1, 2, 3)))) for part in "ymd")
        names = [name.lower()[:3] for name in MONTHS]
        number = int(month) if month.isdigit() else names.index(month.lower()[:3]) + 1
        try:
            yield datetime.date(int(year), number, int(day)).isoformat()
        except ValueError:
            continue


def _times(text: str) -> Iterator[str]:
    for found in TIMES.finditer(text):
        hour, minute = int(found["h1"] or found["h2"]), found["m1"] or found["m2"] or "00"
        half = (found["half1"] or found["half2"] or "").lower()
        if half:
            hour = hour % 12 + 12 * (half == "p")
        if hour < 24:
            yield f"{hour:02}:{minute}"


def _numbers(text: str) -> Iterator[int | float]:
    for found in NUMBERS.finditer(text):
        written = found[0].lower().replace(",", "")
        if written[-1].isalpha():
            yield sum(WORDS[word] for word in re.split("[- ]", written))
        else:
            yield float(written) if "." in written else int(written)
