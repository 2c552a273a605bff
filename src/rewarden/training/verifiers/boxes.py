"""What is in the last \\boxed{...} of a text?

In: text. Out: the content, braces balanced. Ignorant of mathematics.
"""

from __future__ import annotations

import re

BOX = re.compile(r"\\f?boxed(?![A-Za-z])[ \t]*")


def last_boxed(text: str) -> str | None:
    """The content of the last complete box, None where there is none. Linear in the length of the text.

    A box without braces holds the next token, as in TeX. One that is never closed (a completion that was cut) is no box.

    Example:
        >>> last_boxed(r"first \\boxed{1}, then \\boxed{\\frac{1}{2}}"), last_boxed(r"\\boxed 7."), last_boxed(r"\\boxed{1")
        ('\\\\frac{1}{2}', '7', None)
    """
    ends = _closing(text)
    for match in reversed(list(BOX.finditer(text))):
        start = match.end()
        if text[start:start + 1] == "{":
            if start in ends:
                return text[start + 1:ends[start]].strip()
        elif token := re.compile(r"\\[A-Za-z]+|[0-9A-Za-z]").match(text, start):
            return token.group()
    return None


def _closing(text: str) -> dict[int, int]:
    """Of each opening brace the place of its closing one; escaped braces are text."""
    open_places: list[int] = []
    ends = {}
    for match in re.finditer(r"\\.|[{}]", text, flags=re.DOTALL):
        if match.group() == "{":
            open_places.append(match.start())
        elif match.group() == "}" and open_places:
            ends[open_places.pop()] = match.start()
    return ends
