"""gRPC arguments of every channel and server, set once, each with its reason.

HTTP/2 windows are left to gRPC: for streams of tokens, neither larger ones nor their probing switched off changed the
cost of a message or its delay by more than the noise.
"""

# Twice a prompt of a million characters; a message over it is refused with a reason.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
FOREVER_MS = 2**31 - 1  # what gRPC takes for no limit

# Callers of a port that several processes share are spread anew so often: see `server_options`.
SHARED_CONNECTION_AGE_MS = 5 * 60 * 1000
# A session gets no more requests after so many seconds: gRPC moves calls to a new connection, never a stream. Opening
# one costs no more than a request does.
SESSION_AGE_S = 60.0
# Calls that have arrived and that Python has not seen. From a thousand on, gRPC drops them unanswered, as CANCELLED:
# a burst met no admission, and was told no reason. This bound is for memory alone, of which each takes about 20 kB.
PENDING_CALLS = 16_384
# For how long they may wait. gRPC drops a call after half a minute, unanswered too; a caller's deadline knows better.
PENDING_S = 24 * 3600
# Calls open at once on one connection: gRPC's own limit is none, and each takes memory before it has said a word.
STREAMS_PER_CONNECTION = 10_000
# gRPC stops pinging after two pings with no data between, so a peer that vanishes while nothing is said, such as a
# replica whose load does not change, would be missed for as long as TCP takes; 0 is no such limit.
_PINGS_WITHOUT_DATA = ("grpc.http2.max_pings_without_data", 0)


def server_options(
    max_message_bytes: int = MAX_MESSAGE_BYTES, *, shares_port: bool = False
) -> list[tuple[str, int | str]]:
    """Arguments of a server that takes messages of up to `max_message_bytes`.

    Args:
        shares_port: other processes of the same service listen on its port too.
    """
    sharing: list[tuple[str, int | str]] = [
        # The kernel chooses a process per connection, so one that was started again would stay idle for as long as its
        # callers keep theirs. gRPC varies the age by 10 %, and tells a caller before it refuses streams: none is lost.
        ("grpc.max_connection_age_ms", SHARED_CONNECTION_AGE_MS),
        # Streams under way stay where they are, a session for as long as it likes.
        ("grpc.max_connection_age_grace_ms", FOREVER_MS),
    ]
    return [
        # gRPC ends a call over its own limit with no details; up to four times the limit we answer with a reason.
        ("grpc.max_receive_message_length", 4 * max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        ("grpc.server_max_unrequested_time_in_server", PENDING_S),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        # A connection that says nothing is closed; gRPC would wait for two minutes.
        ("grpc.server_handshake_timeout_ms", 20_000),
        # Two servers on one port share its calls without a word; unless that is meant, a port in use is an error.
        ("grpc.so_reuseport", int(shares_port)),
        *(sharing if shares_port else []),
        # Clients ping every 20 s (below), also between calls; without these gRPC ends them with "too many pings".
        # The argument with "recv" in its name is not one of gRPC's, and is ignored without a word.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        # A peer that vanished without closing is noticed.
        ("grpc.keepalive_time_ms", 30_000),
        *_answered_within(10_000),
        _PINGS_WITHOUT_DATA,
    ]


def _answered_within(ms: int) -> list[tuple[str, int]]:
    """For how long the answer to a ping is waited for.

    gRPC also pings to measure the way, and while such a ping is out it sends none to keep alive: without the second
    argument, a link that swallows it is found out after a minute, whatever the first says.
    """
    return [("grpc.keepalive_timeout_ms", ms), ("grpc.http2.ping_timeout_ms", ms)]


def channel_options(service_config: str | None = None, *, attentive: bool = False) -> list[tuple[str, int | str]]:
    """Arguments of a channel.

    Args:
        service_config: in gRPC's JSON form.
        attentive: notice within 3 s that the server, or the way there, says nothing at all any more. For callers that
            have another to go to: the others would only lose what a pause of the network leaves whole. gRPC's own
            threads answer pings, so a server that is busy is not taken for one that is gone.
    """
    ping_after_ms, answered_within_ms = (1_000, 2_000) if attentive else (20_000, 10_000)
    options: list[tuple[str, int | str]] = [
        # Answers are bounded by the context window, not by a message size.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", ping_after_ms),
        *_answered_within(answered_within_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        _PINGS_WITHOUT_DATA,
        # A replica that restarts is found again within a second, not after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if service_config is not None:
        options.append(("grpc.service_config", service_config))
    return options
