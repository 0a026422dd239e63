"""The time of day as the access log shows it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol


class Clock(Protocol):
    """How a format of the log writes times. All are Unix times, in seconds."""

    def text(self, now: float) -> str: ...

    def texts(self, times: Iterable[float]) -> list[str]:
        """Of times in their order."""


class IsoClock:
    """ISO 8601 with milliseconds and zone. Most lines are of the same second as the one before, and many hits are of
    the same millisecond."""

    __slots__ = ("_clock", "_millisecond", "_second", "_text", "_zone")

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._clock = self._zone = self._text = ""

    def text(self, now: float) -> str:
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, left = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                local = time.localtime(second)
                zone = time.strftime("%z", local)
                self._clock, self._zone = time.strftime("%Y-%m-%dT%H:%M:%S.", local), f"{zone[:-2]}:{zone[-2:]}"
            self._text = f"{self._clock}{left:03d}{self._zone}"
        return self._text

    def texts(self, times: Iterable[float]) -> list[str]:
        texts, text, until = [], "", 0.0
        for now in times:
            if now >= until:
                text = self.text(now)
                until = (self._millisecond + 1) / 1000
            texts.append(text)
        return texts


class UnixClock:
    """As Squid has it: seconds with milliseconds."""

    @staticmethod
    def text(now: float) -> str:
        return f"{now:.3f}"

    @staticmethod
    def texts(times: Iterable[float]) -> list[str]:
        return [f"{now:.3f}" for now in times]
