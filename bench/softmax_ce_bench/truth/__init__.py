"""What is right: the oracle in extended precision, the fast reference in float64, and the verdicts on candidates."""
