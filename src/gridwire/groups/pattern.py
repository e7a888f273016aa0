"""Regular expressions that a stranger may send: the common part of RE2, matched in linear time.

An expression becomes a small machine whose states are followed all at once, so no expression can take longer than
its size times the size of the name. Python's own `re` goes back and tries again, which a peer could use to stop the
hub.

Understood: literals, `.`, classes (`[a-z]`, `[^...]`), `\\d \\w \\s` and their opposites, escaped punctuation, groups
`(...)` and `(?:...)`, `|`, `* + ?` (lazy too: it makes no difference to whether the whole name matches), `{m,n}`, and
`^` and `$` (begin and end of the name). Anything else is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EXPRESSION_MAX: Final = 1000
STATES_MAX: Final = 5000
"""`{1000}{1000}` is short to write."""

Test = Callable[[str], bool]
_DIGIT: Final = frozenset("0123456789")
_WORD: Final = _DIGIT | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE: Final = frozenset(" \t\n\r\f")
_CLASSES: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}


class InvalidPattern(Exception):
    """The expression is malformed, too large, or uses what is not understood here."""


class Pattern:
    """A compiled expression.

    Raises:
        InvalidPattern: see there.
    """

    def __init__(self, expression: str) -> None:
        if len(expression) > EXPRESSION_MAX:
            raise InvalidPattern(f"longer than {EXPRESSION_MAX} characters")
        self._text = expression
        self._at = 0
        self._tests: list[Test | None] = []
        self._next: list[list[int]] = []
        self._anchors: dict[int, str] = {}
        try:
            start, end = self._choice()
        except RecursionError:
            raise InvalidPattern("nested too deeply") from None
        if self._at < len(self._text):
            raise InvalidPattern(f"unexpected {self._text[self._at]!r} at {self._at}")
        self._start, self._end = start, end

    def matches(self, name: str) -> bool:
        """Whether the whole of `name` matches."""
        states = self._closure({self._start}, "^" if name else "^$")
        for index, char in enumerate(name, 1):
            onward = set()
            for state in states:
                test = self._tests[state]
                if test is not None and test(char):
                    onward.update(self._next[state])
            states = self._closure(onward, "$" if index == len(name) else "")
        return self._end in states

    def _closure(self, states: set[int], edges: str) -> set[int]:
        """What is reached without a character. `edges`: which anchors hold here."""
        todo = list(states)
        while todo:
            state = todo.pop()
            if self._tests[state] is None and self._anchors.get(state, "") in edges:
                fresh = [each for each in self._next[state] if each not in states]
                states.update(fresh)
                todo += fresh
        return states

    # -- expression to machine; a part is (first state, last state), and a last state leads on by itself

    def _state(self, test: Test | None, *onward: int) -> int:
        if len(self._tests) >= STATES_MAX:
            raise InvalidPattern("too large")
        self._tests.append(test)
        self._next.append(list(onward))
        return len(self._tests) - 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise InvalidPattern("ends too early")
        self._at += 1
        return char

    def _choice(self) -> tuple[int, int]:
        first, end = self._state(None), self._state(None)
        while True:
            part = self._sequence()
            self._next[first].append(part[0])
            self._next[part[1]].append(end)
            if self._peek() != "|":
                return first, end
            self._take()

    def _sequence(self) -> tuple[int, int]:
        first = last = self._state(None)
        while self._peek() not in ("", "|", ")"):
            part = self._repeated()
            self._next[last].append(part[0])
            last = part[1]
        return first, last

    def _repeated(self) -> tuple[int, int]:
        begun = self._at
        part = self._atom()
        atom_end = self._at
        if self._peek() not in ("*", "+", "?", "{"):
            return part
        if part[0] in self._anchors:
            raise InvalidPattern(f"an anchor is not repeated: {self._text[begun:atom_end]!r} at {begun}")
        least, most = self._bounds()
        if self._peek() == "?":
            self._take()
        if self._peek() in ("*", "+", "?", "{") and self._peek():
            raise InvalidPattern(f"nothing to repeat at {self._at}")
        after = self._at
        first = last = self._state(None)
        for number in range(least if most is None else most):
            part = self._again(begun, atom_end)
            self._next[last].append(part[0])
            if number >= least:
                self._next[last].append(skip := self._state(None))
                self._next[part[1]].append(skip)
                last = skip
            else:
                last = part[1]
        if most is None:
            part = self._again(begun, atom_end)
            loop = self._state(None, part[0])
            self._next[last].append(loop)
            self._next[part[1]].append(loop)
            last = self._state(None)
            self._next[loop].append(last)
        self._at = after
        return first, last

    def _again(self, begun: int, end: int) -> tuple[int, int]:
        """Another copy of the atom that stands there."""
        self._at = begun
        part = self._atom()
        if self._at != end:
            raise InvalidPattern("cannot be repeated")
        return part

    def _bounds(self) -> tuple[int, int | None]:
        sign = self._take()
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        inside, closed, _ = self._text[self._at :].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or not low.isdecimal() or not (high.isdecimal() or not high) or len(inside) > 9:
            raise InvalidPattern(f"not a repetition at {self._at}")
        self._at += len(inside) + 1
        least = int(low)
        most = int(high) if high else None if comma else least
        if max(least, most or 0) > 1000 or (most is not None and most < least):
            raise InvalidPattern(f"repetition {inside!r} is out of range")
        return least, most

    def _atom(self) -> tuple[int, int]:
        char = self._take()
        if char == "(":
            if self._peek() == "?":
                self._take()
                if self._take() != ":":
                    raise InvalidPattern("only (...) and (?:...) are understood")
            part = self._choice()
            if self._take() != ")":
                raise InvalidPattern("( without )")
            return part
        if char in "^$":
            anchor = self._state(None)
            self._anchors[anchor] = char
            return anchor, anchor
        if char in "*+?{)":
            raise InvalidPattern(f"unexpected {char!r} at {self._at - 1}")
        test = self._class() if char == "[" else _any if char == "." else self._escaped(char)
        end = self._state(None)
        return self._state(test, end), end

    def _escaped(self, char: str) -> Test:
        if char != "\\":
            return _one_of(frozenset(char))
        return _one_of(*self._escape())

    def _escape(self) -> tuple[frozenset[str], bool]:
        """(characters, whether all others are meant) of what stands after a backslash."""
        char = self._take()
        if char.lower() in _CLASSES:
            return _CLASSES[char.lower()], char.isupper()
        if char.isalnum():
            raise InvalidPattern(f"\\{char} is not understood")
        return frozenset(char), False

    def _class(self) -> Test:
        others = self._peek() == "^"
        if others:
            self._take()
        tests: list[Test] = []
        while self._peek() != "]" or not tests:
            low = self._take()
            if low == "[" and self._peek() == ":":
                raise InvalidPattern("named classes are not understood")
            if low == "\\":
                tests.append(_one_of(*self._escape()))
            elif self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._take()
                high = self._take()
                if high == "\\" or high < low:
                    raise InvalidPattern(f"not a range: {low}-{high}")
                tests.append(_between(low, high))
            else:
                tests.append(_one_of(frozenset(low)))
        self._take()
        return lambda char: any(test(char) for test in tests) != others


def _any(char: str) -> bool:
    return char != "\n"


def _one_of(chars: frozenset[str], others: bool = False) -> Test:
    return lambda char: (char in chars) != others


def _between(low: str, high: str) -> Test:
    return lambda char: low <= char <= high
