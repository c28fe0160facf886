"""Mutation testing: put small faults into the sources one by one, and see whether the test suite notices.

Python sources get every mutant that ``operators.py`` knows; the C and Cython sources those of the table
``compiled.toml``. ``python -m tools.mutation`` runs them (``make mutants``).
"""
