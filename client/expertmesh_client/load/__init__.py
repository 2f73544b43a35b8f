"""A load generator: `expertmesh load`.

What will be asked, and when, is planned by pure functions of a seed (`lengths`, `prompts`, `arrivals`, `plan`). Worker
processes act on the plan (`worker`, `sending`, `ways`) and count what comes (`reading`, `recorder`, `histogram`); the
command's own process starts them, shows their progress and adds up what they counted (`crew`, `climb`, `result`,
`report`).
"""
