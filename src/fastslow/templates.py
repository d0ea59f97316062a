"""HTML from Jinja2 templates: values are escaped, and missing values are errors."""

from __future__ import annotations

import jinja2

from fastslow.printable import visible_text


def environment(package: str) -> jinja2.Environment:
    """The templates in the folder of a package; the filter `visible` is `printable.visible_text`."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["visible"] = visible_text
    return made
