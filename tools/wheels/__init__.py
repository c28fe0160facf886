"""Build the release, inspect it, install it where there is no compiler, and run it there: ``make wheel``.

- build.py builds the sdist from this checkout, and wheels from the sdist; auditwheel gives them their tag.
- contents.py says which files, tags and metadata belong into them.
- machine_code.py finds instructions that not every CPU has, outside the functions that are chosen at run time.
- linking.py finds what a library would look for on the machine that it is loaded on.
- install.py makes fresh environments; installed.py is what runs there.
"""
