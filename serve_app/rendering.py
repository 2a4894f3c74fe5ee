"""Verdicts and node statuses as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deployments.runtime.values import NodeStatus, Status
from serve_app.files import Outcome
from serve_app.models import ModelFile
from serve_app.posts import ModalityReport, Verdict

_ACTION_STYLES = {"allow": "green", "review": "yellow", "block": "bold red"}
_STATE_STYLES = {"ready": "green", "loading": "yellow", "sick": "bold red"}


def verdict_table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Verdicts", show_lines=True, expand=False)
    for heading in ("file", "action", "nsfw", "strongest category", "judged", "language", "why"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        table.add_row(*_row(outcome))
    return table


def _row(outcome: Outcome) -> list[str | Text]:
    if outcome.verdict is None:
        error = outcome.error
        code = f"{error.status} {error.code}" if error else "error"
        return [Text(outcome.source), Text(code, style="magenta"), "", "", "", "", Text(str(error))]
    verdict = outcome.verdict
    judged = [f"{m}: {_modality(r)}" for m, r in verdict.modalities.items() if r.status is not Status.MISSING]
    action = Text(verdict.decision.action, style=_ACTION_STYLES.get(verdict.decision.action, ""))
    language = (
        verdict.language.tag + (" (identified)" if verdict.language.identified else "") if verdict.language else ""
    )
    return [
        Text(outcome.source),  # Text: what users name their files is not markup
        action,
        f"{verdict.nsfw_score:.3f}",
        strongest_category(verdict),
        Text("\n".join(judged)),
        language,
        Text(verdict.decision.reason),
    ]


def strongest_category(verdict: Verdict) -> str:
    """The category other than `safe` with the highest score, and that score."""
    unsafe = {name: score for name, score in verdict.category_scores.items() if name != "safe"}
    name = max(unsafe, key=lambda key: unsafe[key])
    return f"{name} {unsafe[name]:.3f}"


def _modality(report: ModalityReport) -> str:
    amounts = {"frames": report.frames, "s": report.seconds, "tokens": report.tokens}
    told = [f"{value:g} {unit}" for unit, value in amounts.items() if value is not None]
    return " ".join([report.status.value, *told]) + (f" ({report.reason})" if report.reason else "")


def model_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """`node: model version (weights): note`, once each."""
    lines = dict.fromkeys(
        f"{node}: {model.name} {model.version} ({model.weights}): {model.note}"
        for verdict in verdicts
        for node, model in sorted(verdict.models.items())
    )
    return list(lines)


def inventory_table(models: Sequence[ModelFile]) -> Table:
    table = Table(title="Models", show_lines=True)
    for heading in ("node", "model", "there", "where"):
        table.add_column(heading, overflow="fold")
    marks = {True: Text("yes", style="green"), False: Text("missing", style="bold red"), None: Text("at load")}
    for model in models:
        table.add_row(model.node, model.model, marks[model.present], Text(model.where))
    return table


def status_table(statuses: Sequence[NodeStatus]) -> Table:
    table = Table(title="Nodes", show_lines=True)
    for heading in ("node", "state", "model", "weights", "device", "what its numbers are worth"):
        table.add_column(heading, overflow="fold")
    for status in statuses:
        model = status.model
        table.add_row(
            status.node,
            Text(status.state, style=_STATE_STYLES[status.state]),
            f"{model.name} {model.version}" if model else "",
            model.weights if model else "",
            f"{model.device} {model.precision}" if model else "",
            Text(status.reason or (model.note if model else "")),
        )
    return table
