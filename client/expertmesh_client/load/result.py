"""What a rung came to, as data: the object that the command writes."""

from collections import Counter
from typing import Any

from expertmesh_client.load.ceiling import Ceiling
from expertmesh_client.load.histogram import Histogram
from expertmesh_client.load.plan import Job, Rung
from expertmesh_client.load.reading import expert_of
from expertmesh_client.load.recorder import Recorder

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BUSY_SHARE = 0.9  # of a core, beyond which an event loop is the limit
LAG_S, LAG_SHARE = 0.005, 0.05  # a p99 lag above both, the latter of the median time to first token, spoils the result


def result_of(rung: Rung, recorder: Recorder, job: Job, ceiling: Ceiling | None = None) -> dict[str, Any]:
    """Return a rung's result. Times are in seconds; rates are of what arrived within the window."""
    counts, window_s = recorder.counts, recorder.window_s
    asked = {name: value for name in ("users", "rate", "speed") if (value := getattr(rung, name)) is not None}
    rates = {
        "requests_per_s": _rate(counts["window_answers"], window_s),
        "tokens_per_s": _rate(counts["window_tokens"], window_s),
    }
    has_goal = job.goal_first_token_s is not None or job.goal_per_token_s is not None
    answers = max(1, counts["answered"])
    return {
        "load": rung.words,
        **asked,
        "complete": not recorder.interrupted,
        "window_s": round(window_s, 3),
        "asked": counts["asked"],
        "answered": counts["answered"],
        "failed": sum(recorder.shares["failed"].values()),
        "unfinished": counts["unfinished"],
        **rates,
        "goodput_per_s": _rate(counts["window_good"], window_s) if has_goal else None,
        "good_share": counts["good"] / max(1, counts["asked"]) if has_goal else None,
        "errors": {
            reason: {"count": count, "example": recorder.errors.get(reason, "")}
            for reason, count in recorder.shares["failed"].most_common()
        },
        "first_token_s": summary(recorder.times["first_token"]),
        "inter_token_s": summary(recorder.times["inter_token"]),
        "per_token_s": summary(recorder.times["per_token"]),
        "largest_gap_s": summary(recorder.times["largest_gap"]),
        "session_s": summary(recorder.times["session"]),
        "mean_prompt_tokens": counts["prompt_tokens"] / answers,
        "mean_output_tokens": counts["output_tokens"] / answers,
        "routed": _routed(recorder, job),
        "generator": generator(recorder, ceiling, rates),
    }


def summary(histogram: Histogram) -> dict[str, float | int | None]:
    """Return count, mean, percentiles and the most of a histogram."""
    shares = {name: histogram.percentile(share) for name, share in PERCENTILES.items()}
    most = histogram.most_s if histogram.count else None
    return {"count": histogram.count, "mean": histogram.mean_s, **shares, "max": most}


def _routed(recorder: Recorder, job: Job) -> dict[str, Any]:
    """Return who answered, why, and how often that was the expert of the prompt's label."""
    by_label: dict[str, Counter[str]] = {}
    for pair, count in recorder.shares["domains"].items():
        label, _, expert = pair.partition(">")
        by_label.setdefault(label, Counter())[expert] += count
    labelled, right = recorder.counts["labelled"], recorder.counts["right"]
    by_expert = recorder.first_token_by_expert.items()
    return {
        "labelled": labelled,
        "accuracy": right / labelled if labelled else None,
        "by_label": {
            label: {"expected": expert_of(label, job), "answered_by": dict(counter.most_common())}
            for label, counter in sorted(by_label.items())
        },
        "experts": dict(recorder.shares["experts"].most_common()),
        "replicas": dict(sorted(recorder.shares["replicas"].items())),
        "reasons": dict(recorder.shares["reasons"].most_common()),
        "first_token_s": {expert: summary(histogram) for expert, histogram in sorted(by_expert)},
    }


def generator(recorder: Recorder, ceiling: Ceiling | None, rates: dict[str, float]) -> dict[str, Any]:
    """Return how well the generator itself kept up, and whether that spoils the rung."""
    lag, loop_lag = summary(recorder.times["lag"]), summary(recorder.times["loop_lag"])
    worst_s = max(lag["p99"] or 0.0, loop_lag["p99"] or 0.0)
    allowed_s = max(LAG_S, LAG_SHARE * (recorder.times["first_token"].percentile(0.5) or 0.0))
    why = ""
    if recorder.loop_share >= BUSY_SHARE:
        why = f"its event loop was busy for {recorder.loop_share:.0%} of the time"
    elif worst_s > allowed_s:
        why = f"at p99 it was {worst_s * 1e3:.1f} ms late, more than {allowed_s * 1e3:.1f} ms"
    return {
        "lag_s": lag,
        "loop_lag_s": loop_lag,
        "loop_share": recorder.loop_share,
        "cpu_cores": recorder.cpu_cores,
        "of_ceiling": ceiling.share_of(rates["requests_per_s"], rates["tokens_per_s"]) if ceiling else None,
        "saturated": bool(why),
        "why": why,
    }


def _rate(count: int, window_s: float) -> float:
    return count / window_s if window_s > 0 else 0.0
