"""What was published of newer events than the lanes have reached: older events must not say it again."""

from __future__ import annotations

from gateway.outputs.track import Track


class Said:
    """Of one connection: per topic and per subject, the newest event whose word is out."""

    def __init__(self) -> None:
        self._topics: dict[str, int] = {}
        self._subjects: dict[str, int] = {}
        self._up_to = 0

    def topic(self, topic: str, seq: int) -> None:
        """A topic holds what event `seq` said."""
        self._topics[topic] = max(seq, self._topics.get(topic, 0))
        self._up_to = max(self._up_to, seq)

    def subject(self, subject: str, seq: int) -> None:
        """All topics of a subject hold what is true as of event `seq`."""
        self._subjects[subject] = max(seq, self._subjects.get(subject, 0))
        self._up_to = max(self._up_to, seq)

    def is_old(self, subject: str, seq: int) -> bool:
        """True when event `seq` can say nothing new of its subject."""
        return seq <= self._subjects.get(subject, 0)

    def is_news(self, topic: str, seq: int) -> bool:
        """True when event `seq` may be published on a topic."""
        return seq >= self._topics.get(topic, 0)

    def passed(self, track: Track) -> None:
        """Forget what no event can be older than any more."""
        if self._up_to and track.sent >= self._up_to and (track.lane is None or not track.lane.waits):
            self.forget()

    def forget(self) -> None:
        """Start anew."""
        self._topics.clear()
        self._subjects.clear()
        self._up_to = 0
