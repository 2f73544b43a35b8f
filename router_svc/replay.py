"""Decide again, offline, from what `Route` returned, and say whether it comes out the same.

    expertmesh route "…" --json | python -m router_svc.replay -
    python -m router_svc.replay FILE

FILE holds what `expertmesh route --json` printed, or a `RouteResponse` as JSON; several may follow each other. Exit
code 0: each decision comes out the same; 1: one does not; 2: a file cannot be read.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from google.protobuf.json_format import ParseDict, ParseError

from expertmesh.v1.router_pb2 import RouteGrounds, RouteResponse
from mesh_wire.errors import MeshError
from mesh_wire.words import reason_word
from router_svc.choosing.explaining import words_of
from router_svc.choosing.grounds import read_grounds
from router_svc.choosing.selection import select


class Unreadable(ValueError):
    """What is no decision; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decision comes to."""

    expert: str
    variant: str
    endpoint: str
    reason: str
    explanation: str

    def __str__(self) -> str:
        form = f"{self.expert} ({self.variant})" if self.variant else self.expert
        return f"{form} at {self.endpoint}, {self.reason}: {self.explanation}"


@dataclass(frozen=True, slots=True)
class Told:
    """A decision as it was told, with what it was made from."""

    outcome: Outcome
    scores: dict[str, float]
    grounds: RouteGrounds

    @classmethod
    def of(cls, response: RouteResponse) -> "Told":
        route = response.route
        if not response.HasField("grounds"):
            raise Unreadable("it has no grounds: a decision comes with them from Route, or from an ask to explain")
        outcome = Outcome(route.expert, route.variant, response.endpoint, reason_word(route.reason), route.explanation)
        return cls(outcome, {one.expert: one.score for one in response.scores}, response.grounds)


def again(told: Told) -> Outcome:
    """Decide again.

    Raises:
        MeshError: nobody can answer now, though the grounds are those of an answer.
    """
    roster, policy, wish = read_grounds(told.grounds)
    decision = select(told.scores, roster, policy, wish)
    return Outcome(
        decision.expert,
        decision.variant,
        decision.chosen.endpoint,
        reason_word(decision.reason),
        words_of(decision, told.scores, policy),
    )


def read(text: str) -> Iterator[Told]:
    """Read decisions.

    Raises:
        Unreadable: the text holds something else.
    """
    decoder, at = json.JSONDecoder(), 0
    text = text.strip()
    if not text:
        raise Unreadable("it is empty")
    while at < len(text):
        try:
            found, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise Unreadable(f"not JSON: {error}") from None
        yield _told(found)
        at = end + len(text[end:]) - len(text[end:].lstrip())


def _told(found: Any) -> Told:
    # What the command prints has the whole response under a name of its own.
    response = found.get("response", found) if isinstance(found, dict) else found
    if not isinstance(response, dict):
        raise Unreadable("not an object")
    try:
        return Told.of(ParseDict(response, RouteResponse()))
    except ParseError as error:
        raise Unreadable(f"not a decision: {error}") from None


def command(
    file: Annotated[typer.FileText, typer.Argument(metavar="FILE", help="Decisions as JSON; - reads standard input.")],
) -> None:
    """Decide again from what `Route` returned."""
    same = True
    try:
        for told in read(file.read()):
            try:
                outcome = again(told)
            except MeshError as error:
                print(f"another: {error}\nwas told: {told.outcome}")
                same = False
                continue
            if outcome == told.outcome:
                print(f"the same: {outcome}")
            else:
                print(f"another: {outcome}\nwas told: {told.outcome}")
                same = False
    except (Unreadable, UnicodeDecodeError) as error:
        print(f"{file.name}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if not same:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(command)
