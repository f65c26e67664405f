"""What a page may load and run: what stands in it by its hash, its pictures, and nothing else.

https://www.w3.org/TR/CSP3/
"""

from __future__ import annotations

import base64
import hashlib


def policy(style: str = "", script: str = "", images: str = "") -> str:
    """The Content-Security-Policy of a page.

    Args:
        style, script: the content of its only `style` and its only running `script` element.
        images: where its pictures come from, such as `"data:"`.
    """
    parts = ["default-src 'none'"]
    parts += [f"img-src {images}"] if images else []
    parts += [f"script-src {_hash(script)}"] if script else []
    parts += [f"style-src {_hash(style)}"] if style else []
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
