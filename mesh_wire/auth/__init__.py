"""Who calls, and what they may do: certificates, tokens, the callers of a mesh, and its routers."""
