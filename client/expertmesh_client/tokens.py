"""What a client shows of itself beside its certificate: a token."""

from collections.abc import Callable

from mesh_wire.open_session import Headers

Token = str | Callable[[], str]  # a token, or what returns one that is good now, called whenever a stream is opened


def shown(token: Token | None) -> Callable[[], Headers]:
    """Return what gives the metadata that say who calls."""

    def headers() -> Headers:
        value = token() if callable(token) else token
        return (("authorization", f"Bearer {value}"),) if value else ()

    return headers
