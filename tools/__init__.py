"""Tools for maintainers, run from the root of a checkout: ``python -m tools.NAME``. The wheel does not contain them."""
