"""Mutation testing: small faults put into the sources one by one, and whether the test suite notices.

Python sources get every mutant that ``operators.py`` knows; the C and Cython sources those of the table
``compiled.toml``. ``python -m tools.mutation`` runs them (``make mutants``).
"""
