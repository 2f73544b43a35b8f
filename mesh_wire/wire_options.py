"""gRPC arguments of every channel and server, set once, each with its reason."""

# Twice a prompt of a million characters; a message over it is refused with a reason.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


def server_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int | str]]:
    """Arguments of a server that takes messages of up to `max_message_bytes`."""
    return [
        # gRPC ends a call over its own limit with no details; up to four times the limit we answer with a reason.
        ("grpc.max_receive_message_length", 4 * max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would share its calls without a word; a port in use must be an error.
        ("grpc.so_reuseport", 0),
        # Clients ping every 20 s (below), also between calls; without these gRPC ends them with "too many pings".
        # The argument with "recv" in its name is not one of gRPC's, and is ignored without a word.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        # A peer that vanished without closing is noticed.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


def channel_options(service_config: str | None = None) -> list[tuple[str, int | str]]:
    """Arguments of a channel; `service_config` is gRPC's JSON form."""
    options: list[tuple[str, int | str]] = [
        # Answers are bounded by the context window, not by a message size.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A replica that restarts is found again within a second, not after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if service_config is not None:
        options.append(("grpc.service_config", service_config))
    return options
