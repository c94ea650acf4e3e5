"""Experiments of the paper: what they are made of, what is left of them to do, and what came of it (floor F4).

experiment = load_experiment("multi30k", scale="small", overrides=["data=multi30k"])
plan = expand(experiment, Path("experiments/multi30k-small"))
"""
