"""A worker of a fleet: it fetches the accounts of all grants again and again.

    python worker.py            # rounds until SIGTERM
    python worker.py --once     # one round; the exit code says how it went

It needs the extra `blink-oauth[postgresql]` (or `[sql]`), the `BLINK_*` variables of the README,
`BLINK_STORE` (the URL of a database), `BLINK_STORE_KEYS_FILE` and `BLINK_ACCOUNTS_URL`. Start many
on one store: each grant is refreshed once. SIGTERM ends one after the work in progress.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

import httpx

from blink_oauth import BlinkError, BlinkOAuth, Grant, Psu, Settings, answer_to
from blink_oauth_keeper import Event, EventName, KeyFile, SqlTokenStore, TokenManager

AT_ONCE = int(os.environ.get("WORKER_AT_ONCE", "20"))
EVERY, HOUR, DAY = 900.0, 3_600.0, 86_400.0
# Who has to act on an event. The keeper logs all events; on those left out here no person has to.
ALERTS = {
    EventName.UNSETTLED: "page: restore the database, and do not stop this process",
    EventName.LOST: "page: a pair is lost",
    EventName.UNREADABLE: "page: give the missing key back",
    EventName.STORE_BEHIND: "page: the database went back to an older state",
    EventName.FOREIGN_RESPONSE: "page: a proxy mixes up responses",
    EventName.ATTENTION_NEEDED: "ticket: ask the bLink support",
    EventName.CONSENT_NEEDED: "customer: ask for a new consent",
}

log = logging.getLogger("worker")


def alert(event: Event) -> None:
    """Log whom an event concerns, for an alerting rule on the log; your pager may come here."""
    if whom := ALERTS.get(event.name):
        ids = (event.target_id, event.fingerprint, event.correlation_id)
        log.error("%s (%s %s %s %s)", whom, event.name, *ids)


@dataclass
class Worker:
    """Fetches accounts, some grants at once, and refreshes idle grants once a day."""

    manager: TokenManager
    accounts_url: str
    stopping: asyncio.Event  # Once it is set, nothing more is started.

    async def work(self, *, once: bool) -> int:
        """Make rounds until it is to stop, and return the exit code of the last one."""
        code = await self.round()
        while not once and not await self.stops_within(EVERY):
            code = await self.round()
        self.stopping.set()
        return code

    async def round(self) -> int:
        """Fetch the accounts of every grant; return 0, or the highest exit code of an error."""
        free, codes = asyncio.Semaphore(AT_ONCE), {0}

        async def fetch(grant: Grant) -> None:
            codes.add(await self.fetch(grant))
            free.release()

        async with asyncio.TaskGroup() as group:
            try:
                async for status in self.manager.astatuses():
                    await free.acquire()
                    if self.stopping.is_set():
                        break
                    if status.usable or not status.needs_consent:
                        group.create_task(fetch(status.grant))
                    else:
                        free.release()
            except BlinkError as error:  # The store cannot be read.
                log.error("round error=%s: %s", type(error).__name__, error)
                codes.add(answer_to(error).exit_code)
        return max(codes)

    async def fetch(self, grant: Grant) -> int:
        """Fetch the accounts of a grant; return 0 or the exit code of the error."""
        name = f"grant={self.manager.fingerprint(grant)} target={grant.target_id}"
        try:
            client, auth = self.manager.async_client(), self.manager.auth(grant, psu=Psu.AUTO)
            response = await client.get(self.accounts_url, auth=auth)
            response.raise_for_status()
            accounts = response.json()["accounts"]
        except BlinkError as error:
            kind = type(error).__name__
            log.warning("%s error=%s correlation_id=%s", name, kind, error.correlation_id)
            return answer_to(error).exit_code
        except (httpx.HTTPError, ValueError, LookupError) as error:
            log.warning("%s error=%s", name, type(error).__name__)
            return 1  # As `answer_to` has it for what another run may mend.
        log.info("%s accounts=%d", name, len(accounts))  # Here your own work begins.
        return 0

    async def keep_alive(self, first: float) -> None:
        """Refresh idle grants after `first` seconds and then once a day, until it is to stop."""
        while not await self.stops_within(first):
            first = DAY
            try:
                log.info("%s", await self.manager.arefresh_due(stop=self.stopping.is_set))
            except BlinkError as error:  # The next run tries again.
                log.error("keep-alive error=%s: %s", type(error).__name__, error)

    async def stops_within(self, seconds: float) -> bool:
        """Wait some seconds, or until it is to stop; return whether it is to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()


async def run(*, once: bool) -> int:
    """Work until SIGTERM or Ctrl-C, and return the exit code."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    keys = KeyFile(os.environ["BLINK_STORE_KEYS_FILE"])
    store = SqlTokenStore(os.environ["BLINK_STORE"], keys=keys)
    with BlinkOAuth(Settings.from_env()) as blink:
        # At its end, refreshes in progress finish, and their pairs are stored.
        async with TokenManager(blink, store, on_event=alert) as manager:
            worker = Worker(manager, os.environ["BLINK_ACCOUNTS_URL"], stopping)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(worker.work(once=once))
                # Workers of one deploy start together: a random time spreads their runs.
                group.create_task(worker.keep_alive(random.uniform(0, HOUR)))  # noqa: S311
    return work.result()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        sys.exit(asyncio.run(run(once="--once" in sys.argv)))
    except BlinkError as error:
        log.critical("%s: %s", type(error).__name__, error)
        sys.exit(answer_to(error).exit_code)
