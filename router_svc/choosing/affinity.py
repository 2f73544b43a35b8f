"""Which replica is a conversation's own: the same for every router, without a word between them.

A replica that has read the beginning of a conversation finds it in its prefix cache. So each conversation has a home
among the replicas of an expert: the one whose name and the conversation's hash to the highest number. When a replica
leaves, only its own conversations move; when one joins, it takes its share and no other conversation moves.

Source:
    Thaler and Ravishankar, A name-based mapping scheme for rendezvous, 1996.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from expertmesh.v1.generation_pb2 import ChatMessage, GenerateRequest, Role

# Of splitmix64, which mixes all bits of a number into all others.
_SHIFT_1, _FACTOR_1 = np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_2, _FACTOR_2, _SHIFT_3 = np.uint64(27), np.uint64(0x94D049BB133111EB), np.uint64(31)


class Homes:
    """Finds the home of a conversation among some replicas."""

    def __init__(self, endpoints: Iterable[str]) -> None:
        self._endpoints = sorted(endpoints)
        self._hashes = np.array([_hash(endpoint.encode()) for endpoint in self._endpoints], np.uint64)

    def of(self, conversation: int) -> str:
        """Return the endpoint of a conversation's home; there must be replicas."""
        mixed = self._hashes ^ np.uint64(conversation)
        mixed = (mixed ^ (mixed >> _SHIFT_1)) * _FACTOR_1
        mixed = (mixed ^ (mixed >> _SHIFT_2)) * _FACTOR_2
        mixed ^= mixed >> _SHIFT_3
        return self._endpoints[int(mixed.argmax())]


def conversation_of(request: GenerateRequest) -> int | None:
    """Return the hash of the conversation that a request belongs to, in [0, 2^64); None if it belongs to none.

    Without a name, a chat with earlier turns is known by all up to its first user turn, which later turns repeat.
    """
    if request.conversation:
        return _hash(b"name", request.conversation.encode())
    messages = request.chat.messages if request.HasField("chat") else ()
    if len(messages) < 2 or not any(message.role == Role.ROLE_ASSISTANT for message in messages):
        return None
    pieces: list[bytes] = []
    for message in messages:
        pieces += (b"system" if message.role == Role.ROLE_SYSTEM else b"turn", _text(message))
        if message.role == Role.ROLE_USER:
            break
    return _hash(b"chat", *pieces)


def _text(message: ChatMessage) -> bytes:
    return "".join(part.text for part in message.parts).encode()


def _hash(*pieces: bytes) -> int:
    """Hash pieces to 64 bits, alike on every machine; where one ends and the next begins counts."""
    hashed = blake2b(digest_size=8)
    for piece in pieces:
        hashed.update(len(piece).to_bytes(8, "little"))
        hashed.update(piece)
    return int.from_bytes(hashed.digest(), "little")
