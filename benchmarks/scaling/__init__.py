"""Discrete-event simulation of the coordinator on large clusters: the real classes on a virtual clock.

python -m benchmarks.scaling [--workers 1000 --in-flight 500 --seed 0]
"""
