"""Filling the templates: one self-contained HTML file, readable without JavaScript."""

import base64
import hashlib
from pathlib import Path

from vision.files.printable import printable

TEMPLATES = Path(__file__).parent / "templates"


def as_utf8(page: str) -> bytes:
    """Encode a page, whatever a path or a name in it was made of.

    Where the locale is not UTF-8, Python holds the bytes of such a path as surrogates.
    """
    try:
        data = page.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a pair, from a file
        data = page.encode(errors="replace")
    return data.decode(errors="replace").encode()


def render_page(template: str, **context: object) -> str:
    """Fill a template of this package; every value is escaped unless it is marked as safe.

    Characters that are not shown, but change what is, are escaped too.

    The page's own security policy allows the one script that sorts tables and no request at all.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    page = environment.get_template(template).render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **context,
    )
    lines = as_utf8(page).decode().split("\n")
    return "\n".join(map(printable, lines))  # names in files may have control characters
