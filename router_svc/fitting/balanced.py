"""Balanced k-means: every cluster gets its fair share of the corpus while fitting.

Lloyd's iterations whose assignment step is a minimum-cost flow, solved by OR-Tools: the formulation, and the
solver, of the library k-means-constrained. Its releases that import beside numpy 2 ask for an OR-Tools that pins
an older protobuf than gRPC's stubs need, so the solver is called directly here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import min_cost_flow  # type: ignore[import-untyped]  # publishes no types

COST_STEPS = 1_000_000  # costs are integers in the solver: squared distances in millionths


def squared_distances(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared Euclidean distances, shape (points, centres), never below zero."""
    cross = points @ centres.T
    squared = np.square(points).sum(axis=1)[:, None] - 2.0 * cross + np.square(centres).sum(axis=1)
    return np.asarray(np.maximum(squared, 0.0))


def assign_evenly(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give every point to one cluster at the least total cost, all clusters being of equal size.

    Args:
        costs: cost of each point in each cluster, shape (points, clusters), at least zero; points >= clusters.

    Returns:
        The cluster of each point, shape (points,). Each cluster holds floor(points / clusters) or one more.

    Source:
        Bradley, Bennett, Demiriz 2000, "Constrained k-means clustering" (MSR-TR-2000-65), equation 4.
    """
    points, clusters = costs.shape
    share, left_over = divmod(points, clusters)
    point = np.arange(points)
    cluster = np.arange(points, points + clusters)
    rest = points + clusters  # takes the few that an exact division leaves over, one from a cluster at most
    flow = min_cost_flow.SimpleMinCostFlow()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(
        np.repeat(point, clusters),
        np.tile(cluster, points),
        np.ones(points * clusters, dtype=np.int64),
        np.rint(costs * COST_STEPS).astype(np.int64).ravel(),
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        cluster, np.full(clusters, rest), np.ones(clusters, dtype=np.int64), np.zeros(clusters, dtype=np.int64)
    )
    flow.set_nodes_supplies(point, np.ones(points, dtype=np.int64))
    flow.set_nodes_supplies(cluster, np.full(clusters, -share))
    flow.set_nodes_supplies(np.array([rest]), np.array([-left_over]))
    status = flow.solve()
    if status != flow.OPTIMAL:  # a balanced assignment always exists
        raise RuntimeError(f"the balanced assignment has no solution: {status.name}")
    taken = np.asarray(flow.flows(arcs)).reshape(points, clusters)
    return np.asarray(taken.argmax(axis=1), dtype=np.int64)


def balanced_centres(
    points: NDArray[np.float64],
    clusters: int,
    *,
    seed: int,
    iterations: int = 20,
    tolerance: float = 1e-3,
    progress: Callable[[int], None] = lambda iteration: None,
) -> NDArray[np.float64]:
    """Fit centres by k-means with clusters of equal size.

    Args:
        points: shape (points, components); at least `clusters` rows.
        clusters: how many centres.
        seed: draws the rows that the centres start from.
        iterations: upper bound on rounds of assigning and averaging.
        tolerance: the squared sum of the centres' shifts below which the rounds end.
        progress: called with the number of each finished round.

    Returns:
        The centres, shape (clusters, components).

    Source:
        c-BTM, Gururangan et al. 2023 (arXiv 2303.14177): start from random distinct rows, at most 20 rounds, the
        same tolerance. There the balanced assignment is approximated by an auction; here it is exact.
    """
    start = np.random.default_rng(seed).choice(len(points), clusters, replace=False)
    centres = points[start]
    for iteration in range(1, iterations + 1):
        labels = assign_evenly(squared_distances(points, centres))
        moved = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(clusters)])
        shift = np.linalg.norm(moved - centres, axis=1).sum()
        centres = moved
        progress(iteration)
        if shift**2 < tolerance:
            break
    return centres
