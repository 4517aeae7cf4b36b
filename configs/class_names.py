"""Names of classes as CLIP reads them: which names are the same text to it, and which it cannot take.

What these functions return reaches results, so this file is part of the code of a stage, see `cache.code`.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

from split_matching.configs.settings import TextConfig

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of signs that no name needs: they move the cursor of a terminal, or turn the text around."""

JOINERS = "\u200c\u200d"
"""Signs of these categories that Persian and Indian words are written with."""

READ_PIECES = 70
"""Words, digits and signs of a name that CLIP reads at most: of the text of a template and a name it reads 77 tokens,
two of which are marks, and drops the rest. A piece is one token or more (choice: room for a template's own words)."""

SYNONYMS = (
    ("aeroplane", "airplane"),
    ("motorbike", "motorcycle", "minibike"),
    ("sofa", "couch"),
    ("tvmonitor", "tv", "television", "television receiver"),
    ("windowpane", "window"),
    ("shelf", "shelves"),
    ("sidewalk", "pavement"),
    ("person", "pedestrian"),
    ("bicyclist", "cyclist", "rider"),
)
"""Words of the class lists of this project for one thing (choice)."""


class NamedClass(Protocol):
    """A class, as lists and stages have it."""

    @property
    def name(self) -> str:
        """The label."""
        ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """Words that templates take in place of the name."""
        ...


_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def as_clip_reads(text: str) -> tuple[str, ...]:
    """Return a text as CLIP's tokenizer cleans, splits and cuts it: texts with equal pieces have equal tokens.

    Source: `SimpleTokenizer` of OpenAI's CLIP (ftfy, html.unescape twice, white space, lower case).
    """
    plain = unicodedata.normalize("NFKC", html.unescape(html.unescape(text))).lower()
    return tuple(found[0] for found in itertools.islice(_PIECES.finditer(plain), READ_PIECES))


def prompts_of(classes: Iterable[NamedClass], text: TextConfig) -> dict[str, tuple[str, ...]]:
    """Return the prompts of the classes that have some, by name; none with `text.prompts=false`."""
    return {one.name: one.prompts for one in classes if one.prompts and text.prompts}


def find_flaw(text: str) -> str:
    """Return what makes a name or prompt unusable, "" if nothing does."""
    if any(unicodedata.category(sign) in HIDDEN and sign not in JOINERS for sign in text):
        return f"{text!r} has a control or direction character; remove it"
    return ""


def find_alike(texts: Iterable[Sequence[str]]) -> list[tuple[int, int]]:
    """Return pairs of classes whose texts are all the same to CLIP: their embeddings would be equal.

    Args:
        texts: of each class its prompts, or its name alone.

    Returns:
        Places of the first class with these texts, and of each later one.
    """
    first: dict[frozenset[tuple[str, ...]], int] = {}
    found = []
    for place, some in enumerate(texts):
        read = frozenset(as_clip_reads(text) for text in some)
        if read in first:
            found.append((first[read], place))
        first.setdefault(read, place)
    return found


def same_classes(texts: Sequence[Sequence[str]], known: Iterable[str]) -> list[bool]:
    """Return which classes are among known ones, by what they are called in another data set.

    Args:
        texts: of each class its name and its prompts.
        known: names and prompts of the known classes.

    Returns:
        For each class whether one of its texts, or a synonym of it, is a known one; signs and blanks do not count:
        `traffic_light` and `TrafficLight` are the traffic light of another list.
    """

    def letters(text: str) -> str:
        return "".join(filter(str.isalnum, "".join(as_clip_reads(text))))

    groups = {letters(word): group[0] for group in SYNONYMS for word in group}

    def plain(text: str) -> str:
        return letters(groups.get(letters(text), text))

    there = {plain(text) for text in known}
    return [any(plain(text) in there for text in some) for some in texts]
