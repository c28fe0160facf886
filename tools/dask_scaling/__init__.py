"""How the task graphs of softmax_ce.dask scale: real runs on one and two workers, and a simulation of more."""
