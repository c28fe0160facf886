"""The choice of a backend: the one that a call names, else that of a variable, a measured profile or a safe default."""
