"""python bench/asv_page/local_libraries.py HTML_DIR: let the page of `asv publish` load its libraries from beside it.

asv names them on three public servers and shows an error page where one cannot be reached.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

LIBRARIES = Path(__file__).with_name("libraries")
FOLDER = "libraries"

# What asv's page asks for -> the file here. The first sort is byte for byte what it asks for; of the second there is
# no such file outside those servers: the same library as its authors wrote it, not minified.
SAME = {
    "https://code.jquery.com/jquery-3.3.1.min.js": "jquery-3.3.1.min.js",
    "https://cdn.jsdelivr.net/npm/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": "jquery.flot.orderBars.js",
    "https://cdnjs.cloudflare.com/ajax/libs/blueimp-md5/2.19.0/js/md5.min.js": "md5.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap.min.css",
}
NOT_MINIFIED = {
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.min.js": "jquery.flot.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.time.min.js": "jquery.flot.time.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.selection.min.js": "jquery.flot.selection.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.categories.min.js": "jquery.flot.categories.js",
    "https://cdnjs.cloudflare.com/ajax/libs/stupidtable/1.0.1/stupidtable.min.js": "stupidtable.js",  # here 1.1.3
}

# A script or a style sheet from elsewhere; the groups are what is before its address, the address, and the rest.
TAG = re.compile(r'(<(?:script|link)\b[^>]*?\b(?:src|href)=")(https?:[^"]*)("[^>]*>)')


def rewrite(page: str) -> tuple[str, list[str]]:
    """The page with local addresses.

    Parameters
    ----------
    page : str
        asv's index.html.

    Returns
    -------
    page : str
    left : list of str
        Addresses that are not known here: a later asv asks for other libraries. The page still loads those from there.
    """
    known = SAME | NOT_MINIFIED
    left = []

    def local(tag: re.Match[str]) -> str:
        before, address, after = tag.groups()
        if address not in known:
            left.append(address)
            return tag[0]
        # The hash is that of the minified file, and both attributes are about other servers.
        after = re.sub(r' (integrity|crossorigin|referrerpolicy)="[^"]*"', "", after)
        return f"{before}{FOLDER}/{known[address]}{after}"

    return TAG.sub(local, page), left


def main(html_dir: Path) -> int:
    """Rewrite HTML_DIR/index.html and put the libraries beside it; the exit code."""
    index = html_dir / "index.html"
    if not index.is_file():
        print(f"{index}: there is no such file; `asv publish` writes it", file=sys.stderr)
        return 2
    page, left = rewrite(index.read_text(encoding="utf-8"))
    shutil.copytree(LIBRARIES, html_dir / FOLDER, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    index.write_text(page, encoding="utf-8")
    for address in left:
        print(f"Not here, so the page loads it from the network: {address}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/asv_page/local_libraries.py HTML_DIR")
    sys.exit(main(Path(sys.argv[1])))
