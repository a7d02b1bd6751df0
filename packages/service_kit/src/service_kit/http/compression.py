"""gzip as a content coding (RFC 9110, section 8.4.1.3), for those responses that a handler passes to `compressed`.

No other response is compressed: the size of one that holds a secret beside a text of the client's would reveal the
secret (BREACH). Nor is a resource with a strong entity tag for If-Match: each coding would need a tag of its own.
"""

import gzip
from functools import lru_cache
from http import HTTPStatus

from flask import Response, request

LEAST_BYTES = 4096
"""Below, what the network is spared is not worth the time."""

MOST_BYTES = 1 << 20
"""Beyond, compression takes more than some 20 ms of CPU; it takes no thread's lock meanwhile."""

FASTEST = 1
"""zlib's level: half the time of the default one, for a tenth more bytes."""


@lru_cache(maxsize=16)
def _once(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def compressed(response: Response, *, static: bool = False) -> Response:
    """Return the response in gzip where it is large, in one piece, and its client prefers that (section 12.5.3).

    What is `static` is compressed once, whatever its size, and all responses share the result.
    """
    vary = response.headers.get("Vary")  # on a small response and on 304 too: caches choose by it (section 12.5.5)
    response.headers["Vary"] = f"{vary}, Accept-Encoding" if vary else "Accept-Encoding"
    if response.status_code != HTTPStatus.OK or not response.is_sequence:
        return response
    content = response.get_data()
    if not (static or LEAST_BYTES <= len(content) <= MOST_BYTES):
        return response
    header = request.environ.get("HTTP_ACCEPT_ENCODING", "").lower()
    if "gzip" not in header and "*" not in header:
        return response
    accepted = request.accept_encodings
    if not accepted.quality("gzip") or accepted.quality("gzip") < accepted.quality("identity"):
        return response
    response.set_data(_once(content) if static else gzip.compress(content, FASTEST, mtime=0))
    response.content_encoding = "gzip"
    tag, weak = response.get_etag()
    if tag and not weak:  # the same meaning in other bytes (section 8.8.3.3)
        response.set_etag(tag, weak=True)
    return response
