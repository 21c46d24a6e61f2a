"""Columns -> one HTML page that needs nothing else: no network, no other file, no script to be read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from eval_recipes.reporting import charts, wording
from eval_recipes.reporting.columns import MEASURED, Column
from eval_recipes.reporting.contents import Report
from eval_recipes.reporting.knn_table import INTERVAL_REMARK, KnnRow
from eval_recipes.reporting.published import APART, DOMAINS
from eval_recipes.reporting.radar_svg import marker, svg_radar


def _template(name: str) -> str:
    return (files("eval_recipes.reporting") / "templates" / name).read_text(encoding="utf-8")


def page(report: Report) -> str:
    """The page, with everything that came from files escaped."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    radar = charts.radar(report.columns, report.rows)
    bars = charts.task_bars(report.columns, report.rows)
    script = _template("page.js")
    return environment.get_template("page.html").render(
        style=Markup(_template("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=report.title,
        knn=report.knn,
        interval_remark=INTERVAL_REMARK,
        columns=report.columns,
        rows=report.rows,
        looks=[charts.look(index) for index in range(len(report.columns))],
        domain_names=(*DOMAINS, APART),
        domains=report.domains,
        findings=report.findings,
        sources=report.sources,
        radar=svg_radar(radar) if radar else None,
        domain_bars=charts.domain_bars(report.domains) if report.domains else [],
        task_bars=bars,
        whiskers_over=charts.whiskers_over(bars),
        is_whisker_cut=any(bar.whisker and any(bar.whisker.is_cut) for group in bars for bar in group.bars),
        provenance=[provenance(column) for column in report.columns if column.origin]
        + [knn_provenance(row) for row in (report.knn.rows if report.knn else []) if row.kind == MEASURED],
        marker=marker,
        wording=wording,
    )


def breakable(text: str) -> Markup:
    """Escaped text that may be broken where names of modules and folders have their joints.

    >>> breakable("a_b<c")
    Markup('a_<wbr />b&lt;c')
    """
    pieces = re.split(r"(?<=[_=/-])(?=\w)|(?<=\.)(?=[^\W\d])", text)
    return Markup("<wbr />").join(escape(piece) for piece in pieces)


def provenance(column: Column) -> dict[str, Any]:
    """What a measured column was made from: names and values, and each task's commands."""
    origin = column.origin
    if origin is None:
        raise ValueError(f"{column.label} was not measured here, so that nothing is recorded of it")
    packages: dict[str, set[str]] = {}
    commands: dict[str, list[str]] = {}
    for result in column.results:
        for step, record in result.records.items():
            for package, version in record.get("versions", {}).items():
                packages.setdefault(package, set()).add(version)
            if record:
                made = f"{record.get('command', 'no record')} ({record.get('seconds', 0):.0f} s)"
                commands.setdefault(f"{step}: {made}", []).append(result.task)
    options = json.loads(origin.options)
    return {
        "label": column.label,
        "facts": {
            "Folder": str(origin.folder),
            "HEAR module": origin.module,
            "Weights (SHA-256)": origin.checkpoint or "not recorded, or the module's default",
            "Options": json.dumps(options) if options else "none",
            "Protocol": origin.protocol,
            "Versions": _versions(packages),
        },
        "commands": commands,
    }


def knn_provenance(row: KnnRow) -> dict[str, Any]:
    """What a row of nearest neighbours was made from, in the same form."""
    commands: dict[str, list[str]] = {}
    packages: dict[str, set[str]] = {}
    files = [(column.heading, cell.result.file) for column, cell in row.cells.items() if cell.result]
    own = {
        column.heading: cell.result.file["data"]
        for column, cell in row.cells.items()
        if cell.result and column.is_own
    }
    for heading, file in files:
        for package, version in file.get("versions", {}).items():
            packages.setdefault(package, set()).add(version)
        made = f"{file.get('command', 'no record')} ({file.get('seconds', 0):.0f} s)"
        commands.setdefault(made, []).append(heading)
    identity = files[0][1]["identity"]
    options = identity.get("options")
    return {
        "label": f"{row.label}, nearest neighbours",
        "facts": {
            "HEAR module": identity.get("module", "not recorded"),
            "Weights (SHA-256)": identity.get("checkpoint") or "not recorded, or the module's default",
            "Options": json.dumps(options) if options else "none",
            "Classifier": row.protocol,
            **{f"{heading}: clips below": data for heading, data in own.items()},
            "Versions": _versions(packages),
        },
        "commands": commands,
    }


def _versions(packages: dict[str, set[str]]) -> str:
    named = (f"{name} {' and '.join(sorted(found))}" for name, found in sorted(packages.items()))
    return ", ".join(named) or "not recorded"
