"""Which line of the user's files each line is that psql was given."""

from __future__ import annotations

from bisect import bisect_right


class Lines:
    """The lines that were given, with where they come from."""

    def __init__(self) -> None:
        self.line = 1
        self._marks: list[tuple[int, str, int, int]] = []
        self.at_start = True

    def put(self, text: bytes, file: str, line: int, *, stays: bool = False) -> bytes:
        """Take note of a text that begins in a line; `stays`: all of it is of that line."""
        mark = (self.line, file, line, int(not stays))
        if text and not (self._marks and self._same(self._marks[-1], mark)):
            self._marks.append(mark)
        self.line += text.count(b"\n")
        if text:
            self.at_start = text.endswith(b"\n")
        return text

    def end(self, file: str, line: int) -> bytes:
        """End the last line of a file; what comes behind it belongs to that line."""
        if self.at_start:
            return self.put(b"\n", file, line, stays=True)
        text = self.newline()
        self._marks.append((self.line, file, line, 0))
        return text

    def newline(self) -> bytes:
        """End a line that was begun."""
        self.line += 1
        self.at_start = True
        return b"\n"

    def moves(self, file: str) -> bool:
        """Return whether another file begins in the middle of a line."""
        return bool(self._marks) and self._marks[-1][1] != file and not self.at_start

    def where(self, line: int) -> str:
        """Return file:line for a line that was given."""
        at = bisect_right(self._marks, line, key=lambda mark: mark[0]) - 1
        if at < 0:
            return f"<stdin>:{line}"
        first, file, begins, step = self._marks[at]
        return f"{file}:{begins + (line - first) * step}"

    @staticmethod
    def _same(one: tuple[int, str, int, int], other: tuple[int, str, int, int]) -> bool:
        return one[1] == other[1] and one[3] == other[3] and other[2] == one[2] + (other[0] - one[0]) * one[3]
