"""A hook of MkDocs: links from docs/ to other files of the repository lead to the repository's site.

On GitHub `[the ops](../kernels/README.md)` works as it stands; the built site holds docs/ alone.
"""

import re
from typing import Any

_OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return _OUTSIDE.sub(rf"]({config['repo_url'].rstrip('/')}/blob/main/\1)", markdown)
