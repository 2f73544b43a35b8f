"""A mesh of real processes in network namespaces, its processes and links broken on purpose, every answer checked."""
