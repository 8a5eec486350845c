"""Tables and state diagrams of the docs, made from the transition tables that the code runs by."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from registry.lifecycle import MOVES, REFUSALS, Part
from schemas.models import Action, Status
from streams.monitoring import alert_state
from streams.monitoring.alert_state import AlertState, Observation

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)
Edge = tuple[str, str, str]
"""From, to, and what leads there."""


def diagram_of(transitions: Mapping[tuple[State, Event], State], initial: State) -> str:
    """The Mermaid diagram of a table (state, event) -> next state."""
    return mermaid(((before, after, event) for (before, event), after in transitions.items()), initial)


def mermaid(edges: Iterable[Edge], initial: str) -> str:
    """The Mermaid diagram of these edges, one arrow for each pair of states."""
    labels: dict[tuple[str, str], list[str]] = {}
    for before, after, label in edges:
        labels.setdefault((str(before), str(after)), []).append(str(label))
    states = dict.fromkeys([str(initial), *(state for pair in labels for state in pair)])
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            # Hyphens and spaces may be in a state's name, and not in its id.
            *(f'    state "{state}" as {_id(state)}' for state in states if _id(state) != state),
            f"    [*] --> {_id(str(initial))}",
            *(
                f"    {_id(before)} --> {_id(after)}: {' or '.join(events)}"
                for (before, after), events in labels.items()
            ),
            "```",
            "",
        ]
    )


def _id(state: str) -> str:
    return state.replace("-", "_").replace(" ", "_")


def lifecycle_diagram() -> str:
    """The moves of a version. The label of a displaced version's move names the event of the other version."""
    edges = [
        (
            str(before),
            str(after),
            f"{action}" if part is Part.NAMED else f"{action} of another version",
        )
        for (action, part, before), after in MOVES.items()
        if before is not None
    ]
    return mermaid(edges, MOVES[Action.REGISTER, Part.NAMED, None])


def lifecycle_table() -> str:
    """What each event does to a version in each status, as a Markdown table."""
    actions = list(dict.fromkeys(action for action, _, _ in MOVES))
    rows = [
        f"| {status or '*(new)*'} | {' | '.join(_cell(action, status) for action in actions)} |"
        for status in (None, *Status)
    ]
    head = f"| from \\ by | {' | '.join(f'`{action}`' for action in actions)} |"
    return "\n".join([head, "|---" * (len(actions) + 1) + "|", *rows, ""])


def _cell(action: Action, status: Status | None) -> str:
    """The status of a version that the event names, and in parentheses of one that loses its traffic by it."""
    named: str = MOVES.get((action, Part.NAMED, status), "")
    if status is not None and (action, status) in REFUSALS:
        named = "refused"
    displaced = MOVES.get((action, Part.DISPLACED, status))
    return " ".join([*([named] if named else []), *([f"({displaced})"] if displaced else [])])


def refusals_table() -> str:
    """The messages of the events that are refused because of a version's status."""
    return "\n".join(
        [
            "| event | version is | message |",
            "|---|---|---|",
            *(
                f"| `{action}` | {status} | {message.format(version='v2')} |"
                for (action, status), message in REFUSALS.items()
            ),
            "",
        ]
    )


def alert_diagram() -> str:
    """The diagram of an alert, from the answers of its `advance` before and after each of its times."""
    edges: list[Edge] = []
    for phase in alert_state.Phase:
        for seen in Observation:
            soon, late = (_next_alert_phase(phase, seen, waited) for waited in (0.0, 1e9))
            if soon != phase or late == phase:
                edges.append((phase, soon, seen))
            if late != soon:
                edges.append((phase, late, f"{seen} for long enough"))
    return mermaid([edge for edge in edges if edge[0] != edge[1]], alert_state.Phase.INACTIVE)


def _next_alert_phase(phase: alert_state.Phase, seen: Observation, waited: float) -> str:
    after = alert_state.advance(AlertState(phase, 0.0), seen, waited, hold_seconds=60.0, clear_seconds=60.0)
    return str(after.phase)
