"""Another mesh file or artefact without a restart: noticed, tried, swapped in."""
