"""Each rank says in the store of the ranks, every few seconds, that it lives and where it is; so a lost one has a name.

One thread asks the store, another one looks at the clock: the store may be what no longer answers. Of a longer time
between two looks a little counts as silence: then this process was not there itself, as in a job that was suspended.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from . import waits, watch

HEARTBEAT_SECONDS = "MULTICROP_HEARTBEAT_SECONDS"
PAUSE = 2.0  # seconds between two heartbeats of a rank
READERS = 32  # ranks for each second of pause: all of them read those of all
MISSED = 3  # heartbeats that are not heard of a rank that is taken for lost where something else says so, too
HURRY = 8  # times as often, once a rank has something to say
LONGEST = 20.0  # seconds to find out who is lost; torchrun ends the others after 30
LIVES, FAILED, LOST, ENDED = "lives", "failed", "lost another", "ended"


class Store(Protocol):
    """What is asked of a store of torch."""

    def set(self, key: str, value: str, /) -> Any: ...

    def multi_get(self, keys: list[str], /) -> list[bytes]: ...


@dataclass
class Peer:
    """What this rank knows of another."""

    heartbeat: bytes = b""
    silence: float = 0.0
    """Seconds since the last one that was new."""

    def says(self, heartbeat: bytes, seconds: float) -> None:
        """seconds: since it was looked at last."""
        self.silence = self.silence + seconds if heartbeat == self.heartbeat else 0.0
        self.heartbeat = heartbeat

    @property
    def said(self) -> dict[str, str]:
        return json.loads(self.heartbeat) if self.heartbeat else {}


def heartbeat_seconds() -> float:
    """$MULTICROP_HEARTBEAT_SECONDS, how long a rank may be silent until one that waits for it ends; 600 if not set."""
    return waits.stated(HEARTBEAT_SECONDS, "600", 1e6, "seconds that a rank can be silent")


class Heartbeat:
    """Of this rank, until `close`; and what it hears of the others."""

    def __init__(self, store: Store, rank: int, world: int, store_at: str):
        """store_at: the host of rank 0, which has the store."""
        self._store, self._store_at, self._rank = store, store_at, rank
        self._host = socket.gethostname()
        self.limit = heartbeat_seconds()
        self.pause = min(max(PAUSE, world / READERS), self.limit / MISSED)
        self._state, self._count = LIVES, 0
        self._peers = {other: Peer() for other in range(world) if other != rank}
        self._unanswered, self._is_gone = 0.0, False  # seconds since the store has answered
        self._woken, self._closed, self._told = (threading.Event() for _ in range(3))
        self._hurries, self._looked = False, time.monotonic()
        self._beat()  # here, so that all are there once the ranks have met
        self._asking = threading.Thread(target=self._beats, daemon=True)
        self._asking.start()
        threading.Thread(target=self._look_at_clock, daemon=True).start()
        watch.describe_lost = self._lost_so_far

    def end(self, failed: bool) -> None:
        """Say that this rank ends; rank 0 takes the store along, so it gives the others a moment to say so first."""
        self._tell(FAILED if failed else ENDED)
        until = time.monotonic() + (0 if failed or self._rank else 2 * self.pause)
        while time.monotonic() < until and not self._is_gone and self._pending():
            time.sleep(0.01)
        watch.describe_lost = None
        self._closed.set()
        self._woken.set()
        self._asking.join(self.pause)  # Python ends the process where a thread is inside torch

    def lost(self) -> str:
        """Which ranks no longer answer, for people; empty where all do. Called where a collective has failed."""
        self._tell(LOST)
        until = time.monotonic() + min(LONGEST, (MISSED + 1) * self.pause)
        while time.monotonic() < until and not self._is_gone:
            failed = [
                rank for rank, peer in self._peers.items() if peer.said.get("state") == FAILED
            ]
            pending = self._pending()
            if failed or not pending:
                return self._described(failed)
            if pending == self._silent(MISSED * self.pause):
                break
            time.sleep(0.05)
        return self._lost_store() or self._described(self._pending())

    def _tell(self, state: str) -> None:
        """Have the others hear of a state at once, as far as the store answers."""
        self._state, self._hurries = state, True
        self._told.clear()
        self._woken.set()
        self._told.wait(1.0)

    def _pending(self) -> list[int]:
        """Those who have said neither that they end nor that they have lost another."""
        return [rank for rank, peer in self._peers.items() if peer.said.get("state") == LIVES]

    def _silent(self, seconds: float) -> list[int]:
        """Ranks of which nothing new was heard for so long."""
        return [rank for rank in self._pending() if self._peers[rank].silence >= seconds]

    def _lost_so_far(self) -> str:
        """As `lost`, of what is known without waiting."""
        return self._lost_store() or self._described(self._silent(MISSED * self.pause))

    def _lost_store(self) -> str:
        if self._is_gone:
            return f"process 0 on {self._store_at} is gone"
        if self._unanswered >= MISSED * self.pause:
            return (
                f"process 0 on {self._store_at} has not been heard of for {self._unanswered:.0f} s"
            )
        return ""

    def _described(self, ranks: list[int]) -> str:
        return ", ".join(self._describe(rank) for rank in ranks)

    def _describe(self, rank: int) -> str:
        peer = self._peers[rank]
        said = peer.said
        where = f" in {said['what']}" if said["what"] else ""
        name = f"process {rank} on {said['host']}"
        if said["state"] == FAILED:
            return f"{name} has failed{where}, as its message says"
        if peer.silence >= (MISSED - 1) * self.pause:
            return f"{name} has not been heard of for {peer.silence:.0f} s, last{where or ' beside steps'}"
        return f"{name} lives and does not answer{where}"

    # The thread that asks the store

    def _beats(self) -> None:
        while not self._is_gone:
            self._woken.wait(self.pause / (HURRY if self._hurries else 1))
            self._woken.clear()
            if self._closed.is_set():
                return
            try:
                self._beat()
            except Exception:  # torch has several errors for a store that is gone
                self._is_gone = True
            self._told.set()

    def _beat(self) -> None:
        self._count += 1
        wait = watch.current()
        own = {
            "host": self._host,
            "state": self._state,
            "what": wait.what if wait else "",
            "count": self._count,
        }
        self._store.set(str(self._rank), json.dumps(own))
        if self._count > 1 and self._peers:
            heard = self._store.multi_get([str(rank) for rank in self._peers])
            now = time.monotonic()
            seconds, self._looked = min(now - self._looked, 2 * self.pause), now
            for peer, heartbeat in zip(self._peers.values(), heard, strict=True):
                peer.says(heartbeat, seconds)
        self._unanswered = 0.0

    # The thread that looks at the clock

    def _look_at_clock(self) -> None:
        while not self._closed.wait(self.pause):
            self._unanswered += self.pause
            wait = watch.current()
            if wait is None:
                continue
            if self._unanswered >= self.limit:
                self._end(self._lost_store(), wait.what)
            elif silent := self._silent(self.limit):
                self._end(self._described(silent), wait.what)

    def _end(self, whom: str, what: str) -> None:
        """The process, whose main thread waits in `what`."""
        line = (
            f"process {self._rank}: waits in {what}, and {whom} ({HEARTBEAT_SECONDS}={self.limit:g}): ended unsaved; "
            "what was saved before is intact, the same command goes on from there\n"
        )
        with suppress(OSError):
            os.write(2, line.encode())
        os._exit(1)
