"""Sets of spans that no mesh would send, for hypothesis."""

from hypothesis import strategies as st

from expertmesh_client.traces.spans import Event, Kind, Span
from support.traces import GENERATE, START

_ids = st.sampled_from(["a", "b", "c", "d", "e", "f", ""])
_times = st.one_of(st.integers(0, 200_000_000), st.integers(0, 2**63))
_names = st.sampled_from([GENERATE, START, "route.admit", "engine.decode", "expert call", "route", "", "x" * 90])
_statuses = st.sampled_from([{}, {"rpc.response.status_code": "OK"}, {"rpc.response.status_code": "CANCELLED"}])
_counts = st.sampled_from([{}, {"gen_ai.usage.output_tokens": "7"}, {"gen_ai.usage.output_tokens": "many"}])

any_spans = st.lists(
    st.builds(
        lambda status, counts, **fields: Span(attributes={**status, **counts}, **fields),
        span_id=_ids.filter(bool),
        parent_id=_ids,
        name=_names,
        kind=st.sampled_from(Kind),
        service=st.sampled_from(["", "expertmesh-client", "expertmesh-router", "expertmesh-expert", "shop"]),
        start_ns=_times,
        end_ns=_times,
        failed=st.booleans(),
        status=_statuses,
        counts=_counts,
        events=st.lists(
            st.builds(Event, st.sampled_from(["gen_ai.first_token", "gen_ai.progress"]), _times), max_size=2
        ).map(tuple),
    ),
    max_size=10,
)
