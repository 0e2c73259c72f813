"""What the dashboards and the rules ask Prometheus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus/rules.yml"
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")


@dataclass(frozen=True)
class Query:
    """One query and where it stands; Grafana's variables are filled in."""

    where: str
    text: str


def panels(path: Path) -> list[dict[str, Any]]:
    """Return a dashboard's panels that show something asked for."""
    return [one for one in json.loads(path.read_text())["panels"] if "targets" in one]


def of_dashboards(model: str = ".*") -> list[Query]:
    """Return each panel's queries, where a model is chosen or all are."""
    return [
        Query(f"{path.stem}: {panel['title']} {target['refId']}", _filled(target["expr"], model))
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
    ]


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> dict[str, str]:
    """Return the queries of the series that rules record, by their names."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def of_rules() -> list[Query]:
    """Return each rule's query; an alert's without what it compares with: it is to be silent."""
    return [
        Query(f"rule {rule.get('record') or rule['alert']}", _asked(rule["expr"]))
        for rule in rules()
    ]


def _asked(text: str) -> str:
    """Return what an alert goes by while all is well: absence, and what must hold too, left out."""
    expression = promql.parse(text)
    if isinstance(expression, promql.BinaryExpr) and str(expression.op) == "and":
        return _asked(str(expression.lhs))
    if isinstance(expression, promql.BinaryExpr) and str(expression.op) in COMPARISONS:
        return str(expression.lhs)
    if isinstance(expression, promql.Call) and expression.func.name == "absent":
        return str(expression.args[0])
    return text


def _filled(text: str, model: str) -> str:
    for variable, value in {"$__rate_interval": "1m", "$model": model, "$member": ".*"}.items():
        text = text.replace(variable, value)
    return text
