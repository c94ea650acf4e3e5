"""How fast a recipe will be on given hardware, before anything is started (floor F2).

`shapes` (models), `devices` (rates) and `workload` (one train step) are what is known; `sampling`, `scoring`,
`learning`, `publishing` and `wire` are the parts of a step; `memory` says what fits; `prediction` puts the parts
together for one split of the devices, `search` looks for the best split, `calibration` learns rates from a real run.
"""
