"""The characterisation: configurations of experts under up to a thousand users, and one report about them.

`python -m benchmarks.characterise` (`make characterise`). What is measured is in `configurations` and `grid`, one load
on one configuration in `cell`, what is kept of it in `store`; `rows`, `knees`, `findings` and `tables` are pure
functions of that, `plots` and `report` draw it. `profile` and `foretelling` are about engines that are simulated.
"""
