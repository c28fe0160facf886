"""A service that answers with probabilities and losses, warms up first, and follows a profile.

    softmax-ce pick --output profile.json          # once, on the machine that serves
    python examples/service.py --profile profile.json --port 8000
    curl -s localhost:8000 -d '{"logits": [[5, 2, -1, 3]], "labels": [0]}'

Before its first request, a worker sets the profile to follow, refuses to start with one from another machine, loads
the backends that the profile names, and lets them compile.
"""

from __future__ import annotations

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

import softmax_ce as sce
from softmax_ce import profile

DTYPE = np.float32


def warm_up(path: str | None) -> list[str]:
    """Follow the profile at `path`, or the safe default without one, and return the names of what was warmed up."""
    if path is None:
        names = [sce.explain(np.zeros((1, 2), DTYPE), [0]).backend]
    else:
        os.environ["SOFTMAX_CE_PROFILE"] = path
        os.environ["SOFTMAX_CE_PROFILE_STRICT"] = "1"  # an error rather than a silent fallback
        profile.reload()
        sce.explain(np.zeros((1, 2), DTYPE), [0])  # a ProfileError if the profile is not this machine's
        names = sorted({cell.winner for cell in profile.load(path).cells})
    for name in names:
        sce.get_backend(name).warmup(DTYPE)
    return names


class Handler(BaseHTTPRequestHandler):
    """Answers POST with the losses and probabilities of the rows that were sent."""

    def do_POST(self) -> None:
        """Compute, or say what was wrong with the request."""
        try:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logits = np.asarray(request["logits"], DTYPE)
            labels = np.asarray(request["labels"])
            answer = {
                "loss": sce.cross_entropy(logits, labels, reduction="none").tolist(),
                "probabilities": sce.softmax(logits).tolist(),
                "backend": sce.explain(logits, labels, operation="forward").backend,
            }
            status = 200
        except (ValueError, TypeError, IndexError, KeyError) as error:  # the library's messages name the argument
            answer, status = {"error": str(error)}, 400
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: what runs in front of the service does."""


def main() -> None:
    """Warm up, then serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="the profile to follow; without it, the safe default")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    options = parser.parse_args()
    names = warm_up(options.profile)
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"serving on port {server.server_port} with {', '.join(names)}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
