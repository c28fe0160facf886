"""A comparison as one HTML page that opens offline: pictures, sortable tables, and findings in words.

Everything on it comes from the record. Nothing is loaded from elsewhere, and the one script that may run is the page's
own: strings of a record, which may come from anywhere, are escaped.
"""

from softmax_ce_bench.report.html.machines import page as machines_page
from softmax_ce_bench.report.html.page import page

__all__ = ["machines_page", "page"]
