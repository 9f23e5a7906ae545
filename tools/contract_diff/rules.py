"""What a change of the contract means for the caller: the rules, as data.

A change that no rule matches is `UNKNOWN`, so that it is not overlooked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Final

from attrs import evolve, field, frozen

from contract_document import Place


class Absent(Enum):
    """The value of a key that is not there; `null` is a value."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


class Consequence(Enum):
    """What a change means for us, who are the caller; the worst one first."""

    BREAKS = "BREAKS CALLS"
    UNKNOWN = "NO RULE: LOOK"
    HANDLE = "MUST BE HANDLED"
    USABLE = "CAN BE USED"
    WEAKENED = "WEAKENED"
    CONFIRMED = "CONFIRMED"
    WORDS = "WORDS"

    @property
    def rank(self) -> int:
        """Return its place in the order of the consequences; 0 is the worst."""
        return list(Consequence).index(self)


REQUEST, RESPONSE = "request", "response"
BOTH = frozenset({REQUEST, RESPONSE})


def _set(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class Rule:
    """The consequence of some changes.

    Attributes:
        kinds: The kinds of what changed, as in `GRAMMAR`.
        hows: How it changed.
        consequence: What that means for the caller.
        because: The reason, as it is printed.
        side: The only side that it is about; empty for either.
    """

    name: str
    kinds: frozenset[str] = field(converter=_set)
    hows: frozenset[str] = field(converter=_set)
    consequence: Consequence
    because: str
    side: str = ""

    def matches(self, change: Change, side: str) -> bool:
        """Return whether it tells the consequence of a change on one side."""
        return change.kind in self.kinds and change.how in self.hows and self.side in ("", side)


@frozen
class Change:
    """One difference between two contracts.

    Attributes:
        place: Where it is, in the newer contract unless it was removed or renamed.
        kind: What changed: a kind of `GRAMMAR`.
        how: How it changed: added, removed, renamed, tightened, …
        before: The older value, or `ABSENT`.
        after: The newer value, or `ABSENT`. Of what was renamed, both are names.
        sides: Where it is used: `REQUEST`, `RESPONSE` or both.
        others: Further places with the same change.
        consequence: What it means for the caller; on two sides, the worse.
        rule: The name of the rule that says so; empty if there is none.
        because: The reason.
    """

    place: Place
    kind: str
    how: str
    before: Any
    after: Any
    sides: frozenset[str]
    others: tuple[Place, ...] = ()
    consequence: Consequence = Consequence.UNKNOWN
    rule: str = ""
    because: str = "No rule knows this change. Look what it means, and add a rule."

    @property
    def is_of_the_old(self) -> bool:
        """Return whether its place is one of the older contract alone."""
        return self.after is ABSENT or self.how in ("removed", "renamed", "no longer required")


INPUTS = {"request header", "member", "request body"}
OUTPUTS = {"response header", "member"}
SERVERS = {"server", "server variable"}
# What limits the values that may occur.
CONSTRAINTS = {"limit", "constraint", "type", "closed", "condition"}
WRITTEN = {*CONSTRAINTS, *INPUTS, *OUTPUTS, "authentication", "deprecated"}
ANY = {"added", "removed", "changed", "renamed"}
_B, _H, _U = Consequence.BREAKS, Consequence.HANDLE, Consequence.USABLE
_WORDS = Consequence.WORDS

RULES: tuple[Rule, ...] = (
    Rule("operation added", {"operation"}, {"added"}, _U, "There is a new call."),
    Rule(
        *("operation removed or moved", {"operation"}, {"removed", "renamed"}, _B),
        "Our calls go to an address that is gone.",
    ),
    Rule(
        *("operation renamed", {"operationId"}, {"renamed"}, _B),
        "The generated function has another name or module; on the wire nothing changes.",
    ),
    Rule(
        *("schema removed or renamed", {"generated name"}, {"removed", "renamed"}, _B),
        "Generated names are gone or have changed; on the wire nothing changes.",
    ),
    Rule(
        *("server removed or changed", SERVERS, {"removed", "changed", "renamed"}, _B),
        "The base URL that users have set was made from it; they must set another one.",
    ),
    Rule(
        *("server of its own", {"own server"}, ANY, _B),
        "Our calls go to the base URL that users have set, and not there.",
    ),
    Rule("server added", SERVERS, {"added"}, _U, "Calls can go to another base URL."),
    Rule(
        *("client authentication", {"authentication"}, ANY, _B),
        "The server may not accept how we authenticate ourselves.",
    ),
    Rule(
        *("input required", INPUTS, {"added as required", "now required"}, _B),
        "A request without it is refused.",
        REQUEST,
    ),
    Rule(
        *("input removed or renamed", INPUTS, {"removed", "renamed"}, _B),
        "What we send there is refused or has no effect, and the generated code lacks it.",
        REQUEST,
    ),
    Rule(
        *("input optional", INPUTS, {"added", "no longer required"}, _U),
        "We need not send it.",
        REQUEST,
    ),
    Rule(
        *("request tightened", {*CONSTRAINTS, "enum value"}, {"tightened"}, _B),
        "What we may send today can be refused.",
        REQUEST,
    ),
    Rule(
        *("request value changed", CONSTRAINTS, {"changed"}, _B),
        "What we may send today can be refused.",
        REQUEST,
    ),
    Rule(
        *("request loosened", {*CONSTRAINTS, "enum value"}, {"loosened"}, _U),
        "We may send more than today.",
        REQUEST,
    ),
    Rule("form type added", {"media type"}, {"added"}, _U, "A second form is taken.", REQUEST),
    Rule(
        *("form type removed", {"media type"}, {"removed", "renamed"}, _B),
        "The form that we send is refused.",
        REQUEST,
    ),
    Rule("status added", {"status"}, {"added"}, _H, "A response that we do not know yet."),
    Rule(
        *("status removed", {"status"}, {"removed"}, _H),
        "It no longer comes: the types and texts for it can go.",
    ),
    Rule(
        *("response value added", {"enum value"}, {"loosened"}, _H),
        "A value that we do not know yet.",
        RESPONSE,
    ),
    Rule(
        *("response value removed", {"enum value"}, {"tightened"}, _H),
        "It no longer comes: the types and code for it can go.",
        RESPONSE,
    ),
    Rule(
        *("response tightened", CONSTRAINTS, {"tightened"}, _U),
        "Responses are described more closely than before.",
        RESPONSE,
    ),
    Rule(
        *("response loosened or changed", CONSTRAINTS, {"loosened", "changed"}, _H),
        "Values can come that were excluded.",
        RESPONSE,
    ),
    Rule(
        *("output added", OUTPUTS, {"added", "added as required", "now required"}, _U),
        "We can read it.",
        RESPONSE,
    ),
    Rule(
        *("output removed", OUTPUTS, {"removed", "renamed", "no longer required"}, _H),
        "It can be missing where we read it.",
        RESPONSE,
    ),
    Rule(
        *("media type of responses", {"media type"}, {"added", "removed", "renamed"}, _H),
        "A body comes in another form.",
        RESPONSE,
    ),
    Rule("deprecated", {"deprecated"}, {"added"}, _H, "It still works and will be removed."),
    Rule("default", {"default"}, ANY, _H, "The generated code fills it in where we say nothing."),
    Rule(
        *("evidence raised", {"evidence"}, {"raised"}, Consequence.CONFIRMED),
        "A better source was found.",
    ),
    Rule(
        *("evidence lowered", {"evidence"}, {"lowered", "removed"}, Consequence.WEAKENED),
        "Its source is weaker than we said.",
    ),
    Rule(
        *("evidence first marked", {"evidence"}, {"added"}, _WORDS),
        "It had no mark before, so none was raised.",
    ),
    Rule("text", {"text"}, ANY, _WORDS, "What may be sent and what can come is the same."),
    Rule("contract version", {"version"}, ANY, _WORDS, "Whether it fits is said at the end."),
    Rule(
        *("default written", WRITTEN, {"written"}),
        *(_WORDS, "The same is true without it."),
    ),
    Rule("order", {"order"}, {"changed"}, _WORDS, "Only the order differs, or something empty."),
    Rule(
        *("reference", {"reference"}, {"changed"}, _WORDS),
        "The components are equal but for their names.",
    ),
    Rule(
        *("component", {"component"}, {"added", "removed", "renamed"}, _WORDS),
        "What refers to it is listed by itself.",
    ),
)


def consequence(change: Change, rules: Sequence[Rule] = RULES) -> Change:
    """Return a change with its consequence: the worst of the sides that it is used on."""
    found = []
    for side in sorted(change.sides):
        rule = next((rule for rule in rules if rule.matches(change, side)), None)
        if rule is None:
            found.append(change)
        else:
            found.append(
                evolve(
                    change,
                    consequence=rule.consequence,
                    rule=rule.name,
                    because=rule.because,
                )
            )
    return min(found, key=lambda one: one.consequence.rank)
