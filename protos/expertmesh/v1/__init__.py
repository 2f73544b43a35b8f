"""Package `expertmesh.v1` of the contract."""
