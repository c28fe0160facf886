"""What only maintainers run, from the root of a checkout: ``python -m tools.NAME``. Not part of the wheel."""
