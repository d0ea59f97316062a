"""One self-contained HTML page: the figures, sentences that describe them, and the tests of the paper's findings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import fastslow
from fastslow.data.text import Text
from fastslow.dynamics.findings import Finding, change_sentences, gradient_sentences, word_sentences
from fastslow.dynamics.study import Group, StudySettings, baseline_of
from fastslow.templates import environment

PAGE_FILE = "dynamics.html"


def page(
    groups: Sequence[Group],
    found: Sequence[Finding],
    svg: Mapping[str, bytes],
    text: Text,
    settings: StudySettings,
) -> str:
    """The HTML of the page. svg: the figures by name, from `figures.write_figures`."""

    def of(kind: str) -> list[Finding]:
        return [finding for finding in found if finding.figure == kind]

    def figure(name: str, kind: str, said: Sequence[str]) -> dict[str, Any]:
        return {"name": name, "svg": base64.b64encode(svg[name]).decode("ascii"), "said": said, "found": of(kind)}

    return (
        environment("fastslow.dynamics")
        .get_template("page.html")
        .render(
            groups=groups,
            first=groups[0].members[0],
            several=any(len(group.members) > 1 for group in groups),
            baseline=baseline_of(groups),
            zoned=[group.label for group in groups if group.members[0].options.zoneout_c > 0],
            text=text,
            settings=settings,
            gradients=figure("gradient-norms", "gradients", gradient_sentences(groups)),
            change=figure("memory-change", "change", change_sentences(groups)),
            words=figure("word-positions", "words", word_sentences(groups)),
            losses=of("loss"),
            version=fastslow.__version__,
        )
    )
