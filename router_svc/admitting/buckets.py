"""Token buckets: how much a caller may ask for in the long run, and how much at once."""

LONGEST_TOLD_S = 60.0  # that callers are sent away for: nobody plans for longer


class Bucket:
    """Fills at a steady rate up to its size; what is asked for is taken out. Times are seconds of any one clock.

    Where there is not enough, whoever asked is told when there will be. Those told before are counted in: if all come
    back when they were told to, each finds what it asked for.
    """

    def __init__(self, rate: float, size: float, now: float) -> None:
        """Args:
        rate: what flows in per second; above 0.
        size: what it holds at most; above 0. It is full at first.
        """
        self._rate = rate
        self._size = size
        self._level = size  # below 0: more was taken than there was
        self._at = now
        self._told = now  # when what was asked for in vain so far will all have flowed in

    def lacks_s(self, amount: float, now: float) -> float:
        """Return the seconds until there is enough for `amount`; 0: there is.

        More than the bucket holds can be taken when it is full, and is owed then.
        """
        self._flow(now)
        return max(0.0, (min(amount, self._size) - self._level) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take an amount out, whether it is there or not; a negative one is put back."""
        self._flow(now)
        self._level = min(self._size, self._level - amount)

    def told_s(self, amount: float, now: float) -> float:
        """Return in how many seconds to ask again for an amount that is not there now, after all who were told so."""
        lacks_s = self.lacks_s(amount, now)
        after_s = self._told - now + min(amount, self._size) / self._rate if self._told > now else 0.0
        told_s = max(lacks_s, min(after_s, LONGEST_TOLD_S))
        self._told = now + told_s
        return told_s

    def _flow(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._size, self._level + (now - self._at) * self._rate)
            self._at = now
