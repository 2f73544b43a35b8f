"""Whether this machine can hold a ladder's connections: said before it starts, not found out at its top."""

from collections.abc import Sequence

from expertmesh_client.load.plan import PER_USER, Job, Rung, users_of
from expertmesh_client.load.problems import BadLoad

BASE_DESCRIPTORS = 64  # of a worker without connections: libraries, pipes, the event loop and gRPC's own
PER_CONNECTION = 2  # a socket, and one more while it is made anew


def check_descriptors(job: Job, rungs: Sequence[Rung], limit: int) -> None:
    """Raises BadLoad where a worker would need more file descriptors than `limit`."""
    for rung in rungs:
        connections = len(users_of(job, rung, 0)) if job.connections == PER_USER else job.connections
        needed = BASE_DESCRIPTORS + PER_CONNECTION * connections
        if needed > limit:
            enough = -(-connections * PER_CONNECTION * job.processes // max(1, limit - BASE_DESCRIPTORS))
            raise BadLoad(
                f"{rung.words}: {connections} connections need about {needed} file descriptors in a process, and the "
                f"limit is {limit}; raise it (ulimit -Hn), use fewer --connections, or --processes {enough}"
            )


def descriptors() -> int:
    """Raise this process's limit, which those that it starts inherit, as far as it may go; returns it."""
    try:
        import resource
    except ImportError:  # not on this platform, which then has no such limit
        return 2**31
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 2**20)  # what no kernel allows by default anyway
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
