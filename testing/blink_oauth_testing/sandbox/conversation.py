"""What a bank asks a person before it gives a code: to sign in, then to choose accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import define, field

from . import consent_pages as pages
from .messages import Reply
from .policy import ACCOUNTS, BankPolicy

__all__ = ["Conversations"]

PATIENCE = 600.0
"""Seconds that a person has."""

Query = tuple[tuple[str, str], ...]


@define(eq=False)
class _Conversation:
    target_id: str
    query: Query
    until: float
    is_signed_in: bool = False


@define(eq=False)
class Conversations:
    """The people who are being asked. Each has a name of its own that only its pages know.

    Args:
        now: Returns the time in seconds.
        new_secret: Makes a value from the kind of secret.
    """

    now: Callable[[], float]
    new_secret: Callable[[str], str]
    _open: dict[str, _Conversation] = field(init=False, factory=dict, repr=False)

    def clear(self) -> None:
        """Forget everybody."""
        self._open.clear()

    def hear(
        self, bank: BankPolicy, query: Query, form: Sequence[tuple[str, str]] | None
    ) -> Reply | frozenset[str] | None:
        """Take in what a person filled in.

        Args:
            bank: The bank that asks.
            query: The parameters of the authorization request.
            form: What came from a page, or None for a first look.

        Returns:
            The next page; or the ids of the accounts for a consent; or None for a refusal.
        """
        if form is None:
            name = self.new_secret("consent-session")
            self._open[name] = _Conversation(bank.target_id, query, self.now() + PATIENCE)
            return pages.sign_in(bank, query, name)
        said = dict(form)
        name = said.get("session", "")
        conversation = self._open.get(name)
        if conversation is None or not self._is_good(conversation, bank, query, said):
            # Somebody waited for too long, sent a page twice, or sent none of ours.
            self._open.pop(name, None)
            return pages.expired()
        if not conversation.is_signed_in:
            conversation.is_signed_in = bool(said.get("password", "").strip())
            next_page = pages.choose if conversation.is_signed_in else pages.sign_in
            return next_page(bank, query, name, is_wrong=not conversation.is_signed_in)
        chosen = frozenset(value for key, value in form if key == "account")
        chosen &= {account["id"] for account in ACCOUNTS}
        is_approved = said.get("decision") == "approve"
        if is_approved and not chosen:
            return pages.choose(bank, query, name, is_wrong=True)
        del self._open[name]
        return chosen if is_approved else None

    def _is_good(
        self,
        conversation: _Conversation,
        bank: BankPolicy,
        query: Query,
        said: Mapping[str, str],
    ) -> bool:
        same = (conversation.target_id, conversation.query) == (bank.target_id, query)
        # Without a decision it is the first page sent twice, and nobody has refused anything.
        fits = "decision" in said or not conversation.is_signed_in
        return same and fits and self.now() < conversation.until
