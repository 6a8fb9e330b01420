"""Reads the numbers, dates and times that a text says in digits or English words, in the forms of data/spoken.py and
the commonest others: `1,000`, `twenty-five`, `3rd of March 2026`, `7:30 pm`.

There are many more ways to say one (`half past five`, `next Friday`, `a couple`, `fünf`). So `may_tell` is wide: only
of an English text without any other digit, number word or word of time can it be said that it tells no such value.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from calltune.data.spoken import MONTHS, SMALL

Kind = Literal["number", "date", "time"]
Value = str | int | float

TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: i for i, word in enumerate((*SMALL, *TEENS))} | {word: 10 * i for i, word in enumerate(TENS, 2)}
MONTH_STEMS = [month[:3].lower() for month in MONTHS]
LONGEST = 40  # digits of a number that is read
HOW = re.IGNORECASE | re.ASCII

ISO_DAY, CLOCK = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII), re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]}|\\.|t\\.?)?" if len(month) > 3 else month for month in MONTHS)
DATES = re.compile(
    rf"(?<![\w-])(?:(?P<y1>\d{{4}})[-/](?P<m1>\d\d?)[-/](?P<d1>\d\d?)"
    rf"|(?P<m2>{_MONTH})\s+(?P<d2>\d\d?)(?:st|nd|rd|th)?,?\s+(?P<y2>\d{{4}})"
    rf"|(?P<d3>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m3>{_MONTH}),?\s+(?P<y3>\d{{4}}))(?![\w-])",
    HOW,
)
TIMES = re.compile(
    r"(?<![\w:.,-])(?:(?P<h1>\d\d?):(?P<m1>[0-5]\d)(?!\d|:\d)(?:\s*(?P<half1>[ap])\.?m\b)?"
    r"|(?P<h2>\d\d?)(?:\.(?P<m2>[0-5]\d))?\s*(?P<half2>[ap])\.?m\b)",
    HOW,
)
NUMBERS = re.compile(
    r"(?<![\w.,-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d-])"
    rf"|\b(?:(?:{'|'.join(TENS)})[- ](?:{'|'.join(SMALL[1:10])})|{'|'.join(WORDS)})\b",
    HOW,
)
# Words that say a number, and those that say a day or a time of day.
COUNTED = re.compile(
    rf"\b(?:{'|'.join(TENS)}|{'|'.join(WORDS)}|four?th|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|"
    r"twelfth|\w+(?:teen|tie)th|hundreds?|thousands?|millions?|couples?|pairs?|dozens?|half|halves|"
    r"quarters?|double|twice|thrice|triple|once|both|first|second|third|few|several|single|none|"
    r"an? (?:second|minute|hour|day|night|week|month|year))\b",
    HOW,
)
TIMED = re.compile(
    rf"\b(?:{_MONTH}|(?:mon|tue|tues|wed|wednes|thu|thur|thurs|fri|sat|satur|sun)(?:days?)?|to(?:day|night|morrow)|"
    r"tmrw|yesterday|now|later|soon|ago|before|after|next|last|this|early|late|days?|nights?|weeks?|weekend|months?|"
    r"years?|hours?|hrs?|minutes?|mins?|morning|noon|midnight|midday|afternoon|evening|past|o.?clock|breakfast|"
    r"lunch\w*|dinner\w*|sun(?:rise|set)|dawn|dusk|[ap]\.?m|x?mas|christmas|easter|halloween|holidays?|birthday|"
    r"fortnight)\b",
    HOW,
)
ENGLISH = re.compile(
    r"\b(?:the|my|please|is|are|what|can|could|would|you|i|it|for|of|and|to|your|that|this|with|how|do|want|need|let|"
    r"some|something|now)\b",
    HOW,
)


def kind_of(value: Any, schema: Mapping[str, Any]) -> Kind | None:
    """Of which kind a value of that schema is; None for one that is of none of these."""
    if "enum" in schema or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return "date" if ISO_DAY.fullmatch(value) else "time" if CLOCK.fullmatch(value) else None
    return "number" if isinstance(value, int | float) else None


def may_tell(text: str, kind: Kind) -> bool:
    """Whether the text may say a value of the kind beside those that `values_told` reads."""
    if not ENGLISH.search(text) or any(c > "\u024f" and (c.isalpha() or c.isnumeric()) for c in text):
        return True
    left = TIMES.sub(" ", DATES.sub(" ", text)) if kind != "number" else text
    if any(c.isnumeric() for c in left) or COUNTED.search(left):
        return True
    return kind != "number" and TIMED.search(left) is not None


def values_told(text: str, kind: Kind) -> Iterator[Value]:
    """The values of a kind that a text says."""
    if kind == "date":
        yield from _dates(text)
    elif kind == "time":
        yield from _times(text)
    else:
        yield from _numbers(TIMES.sub(" ", DATES.sub(" ", text)))


def _dates(text: str) -> Iterator[str]:
    for found in DATES.finditer(text):
        year, month, day = (next(filter(None, (found[f"{part}{i}"] for i in (1, 2, 3)))) for part in "ymd")
        number = int(month) if month.isdigit() else MONTH_STEMS.index(month.lower()[:3]) + 1
        try:
            yield datetime.date(int(year), number, int(day)).isoformat()
        except ValueError:
            continue


def _times(text: str) -> Iterator[str]:
    """`7:30` may be meant before noon and after it; after it rows write it as it is."""
    for found in TIMES.finditer(text):
        hour, minute = int(found["h1"] or found["h2"]), found["m1"] or found["m2"] or "00"
        half = (found["half1"] or found["half2"] or "").lower()
        hours = [hour % 12 + 12 * (half == "p")] if half else [hour] if hour >= 12 else [hour, hour + 12]
        yield from (f"{hour:02}:{minute}" for hour in hours if hour < 24)


def _numbers(text: str) -> Iterator[int | float]:
    for found in NUMBERS.finditer(text):
        written = found[0].lower().replace(",", "")
        if written[-1].isalpha():
            yield sum(WORDS[word] for word in re.split("[- ]", written))
        elif len(written) <= LONGEST:
            yield float(written) if "." in written else int(written)
