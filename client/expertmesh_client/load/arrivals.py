"""When requests arrive in an open loop, whatever becomes of those before."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from expertmesh_client.load.problems import BadLoad


def poisson(rate: float, last_s: float, chance: random.Random) -> Iterator[float]:
    """Yield the moments, in seconds from 0 to `last_s`, of arrivals that know nothing of each other.

    Args:
        rate: arrivals per second, on average.
    """
    at_s = chance.expovariate(rate)
    while at_s < last_s:
        yield at_s
        at_s += chance.expovariate(rate)


def recorded(path: Path) -> list[float]:
    """Read moments of arrival, in seconds: a number a line, or an object a line with the number under `at`.

    Returns:
        Them in order, counted from the first.

    Raises:
        BadLoad: a line is neither, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadLoad(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    moments = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            moment = float(found["at"] if isinstance(found, dict) else found)
        except (ValueError, TypeError, KeyError):
            raise BadLoad(f'{path}:{number}: neither a number of seconds nor an object with one under "at"') from None
        if not abs(moment) < float("inf"):
            raise BadLoad(f"{path}:{number}: {moment} is no moment in time")
        moments.append(moment)
    if not moments:
        raise BadLoad(f"{path}: no arrivals in it")
    moments.sort()
    return [moment - moments[0] for moment in moments]
