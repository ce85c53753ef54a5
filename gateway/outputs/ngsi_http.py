"""An NGSI-LD broker over HTTP: entities in batches to entityOperations/upsert, merged into what the broker has.

At least once, and idempotent: an entity that comes twice says the same. Of what may have been sent before a failure only the newest
value of each attribute is sent again, so that none steps back. What the broker refuses for good is counted, told in the log, and left
behind; everything else is tried again with back-off, and waits in the store.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from json import loads
from typing import Any

import httpx
import structlog

from gateway import __version__, tls
from gateway.config import NgsiHttpOutputConfig
from gateway.core.model import Node
from gateway.credentials import read_secret
from gateway.metrics import Metrics
from gateway.outputs.destination import Destination
from gateway.outputs.message import json
from gateway.outputs.ngsi_ld import normalized
from gateway.outputs.ngsi_models import Entity, entities
from gateway.store.engine import Engine, Entry

PATH = "/ngsi-ld/v1/entityOperations/upsert"
ANSWER_MAX = 1 << 20  # bytes of an answer that we look at
TRIES = 4  # for entities that the broker could not take just now, within one batch
TRY_S = 0.5
_REFUSED_FOR_GOOD = {
    400,
    404,
    405,
    409,
    411,
    413,
    414,
    415,
    422,
}  # 401, 403, 429 and 5xx pass when the other side changes

log = structlog.get_logger(__name__)


class HttpError(Exception):
    """The broker did not take a batch; `hint` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class NgsiHttpOutput(Destination):
    """One broker."""

    FAULTS = (HttpError, httpx.HTTPError, OSError, ssl.SSLError)
    OPEN_IS_ENOUGH = False

    def __init__(
        self,
        config: NgsiHttpOutputConfig,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
        nodes: Mapping[int, Node],
    ) -> None:
        super().__init__(config, gateway, engine, metrics, info, nodes)
        self._config, self.batch = config, config.batch
        self._client: httpx.AsyncClient | None = None

    def advice(self, error: Exception) -> str:
        """What the operator is to do next."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (ssl.SSLError, tls.TlsError)) and (hint := tls.explain(cause)[1]):
                return hint
            cause = cause.__cause__ or cause.__context__
        return getattr(error, "hint", "") or f"data are kept in the store; look at the broker at {self._config.url}"

    async def open(self) -> None:
        """Make a client; the connection comes with the first batch."""
        c = self._config
        headers = {"Content-Type": "application/ld+json", "User-Agent": f"citymote/{__version__}"}
        if c.tenant is not None:
            headers["NGSILD-Tenant"] = c.tenant
        if c.token_file is not None:
            headers["Authorization"] = f"Bearer {read_secret(c.token_file)}"
        verify: ssl.SSLContext | bool = True
        if c.ca_file is not None:
            verify = tls.context(c.ca_file, c.cert_file, c.key_file)
        self._client = httpx.AsyncClient(
            headers=headers, verify=verify, timeout=c.timeout_s, follow_redirects=False, trust_env=False,
            limits=httpx.Limits(max_connections=1),
        )  # fmt: skip

    async def shut(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def take(self, entries: Sequence[Entry]) -> None:
        """Post what events change, one value per attribute: the newest."""
        track = self._track
        if track.sent < track.highest:  # these may have been there before: all of them at once, so that the newest wins
            await track.persist()
            entries = self._engine.fetch(track.sent, track.room)
        merged: dict[str, Entity] = {}
        for entry in entries:
            track.begin(entry.seq, 1)
            event = self.narrow(entry.event)
            for entity in entities(event, self.known) if event is not None else ():
                merged[entity.id] = _merge(merged.get(entity.id), entity)
        # what the broker knows of an entity beside this stays; an alert is told whole, since a new one has no validTo
        for mode, whole in (("update", False), ("replace", True)):
            bodies = [normalized(entity) for entity in merged.values() if (entity.type == "Alert") == whole]
            for i in range(0, len(bodies), self.batch):
                await self._upsert(bodies[i : i + self.batch], mode)
        for entry in entries:
            track.finish(entry.seq)

    async def _upsert(self, batch: list[dict[str, Any]], mode: str) -> None:
        """Post entities until each is taken or refused for good. Raises HttpError and httpx.HTTPError."""
        for attempt in range(TRIES):
            batch = await self._post(batch, mode)
            if not batch:
                return
            await asyncio.sleep(TRY_S * 2**attempt)
        raise HttpError(
            f"{self._config.url}: {len(batch)} entities not taken in {TRIES} tries, {batch[0]['id']} among them"
        )

    async def _post(self, batch: list[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
        """Post once; return what is to be tried again."""
        client, url = self._client, self._config.url
        assert client is not None
        async with asyncio.timeout(self._config.timeout_s * 3):  # httpx counts the time between bytes, not the whole
            async with client.stream("POST", url + PATH, params={"options": mode}, content=json(batch)) as answer:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_MAX:
                        raise HttpError(
                            f"{url}: an answer of more than {ANSWER_MAX} bytes", "is this an NGSI-LD broker?"
                        )
        status = answer.status_code
        if status in (200, 201, 204, 207) or status in _REFUSED_FOR_GOOD:
            self.answered()
        if status in (200, 201, 204):
            self._metrics.totals["entities"] += len(batch)
            return []
        if status == 207:
            return self._partly(batch, body)
        if status in _REFUSED_FOR_GOOD:
            if len(batch) == 1:
                self._refused(batch[0]["id"], _reason(body) or f"HTTP {status}")
                return []
            for entity in batch:  # one of them spoils the batch: find it
                for late in await self._post([entity], mode):
                    await self._upsert([late], mode)
            return []
        hint = {
            401: "give a valid token in token_file", 403: "let the token write entities of this tenant", 429: "the broker wants us slower; lower batch"
        }.get(status, "")  # fmt: skip
        if 300 <= status < 400:
            hint = f"it sends us to {answer.headers.get('location', '?')}: write the right url"
        raise HttpError(f"{url}: HTTP {status} {_reason(body)}".rstrip(), hint)

    def _partly(self, batch: list[dict[str, Any]], body: bytes) -> list[dict[str, Any]]:
        """Read a 207 (ETSI GS CIM 009 section 5.2.16, BatchOperationResult): what failed for good, and what is to be tried again."""
        try:
            errors = loads(body)["errors"]
            failed = {e["entityId"]: e.get("error") or {} for e in errors}
        except (ValueError, KeyError, TypeError) as e:
            raise HttpError(
                f"{self._config.url}: a 207 that is no BatchOperationResult", "is this an NGSI-LD broker?"
            ) from e
        again = []
        for entity in batch:
            error = failed.get(entity["id"])
            if error is None:
                self._metrics.totals["entities"] += 1
            elif _status(error) in _REFUSED_FOR_GOOD:
                self._refused(entity["id"], _words(error))
            else:
                again.append(entity)
        return again

    def _refused(self, entity: str, reason: str) -> None:
        self._metrics.totals["entities_refused"] += 1
        log.warning(
            "entity_refused", output=self.name, entity=entity, reason=reason[:300],
            next="compare the entity with what the broker demands; the reading itself is in the store",
        )  # fmt: skip


def _merge(old: Entity | None, new: Entity) -> Entity:
    """Return an entity with the newer value of each attribute."""
    if old is None:
        return new
    if new.t < old.t:
        old, new = new, old
    if new.type == "Alert":  # each is told whole
        return new
    attrs = dict(old.attrs)
    for name, a in new.attrs.items():
        before = attrs.get(name)
        if before is None or before.t is None or a.t is None or a.t >= before.t:
            attrs[name] = a
    if not new.ended:
        attrs = {
            name: a for name, a in attrs.items() if name in new.attrs or not old.ended
        }  # a new alert is not the one that ended
    return new._replace(attrs=attrs)


def _status(error: Any) -> int:
    """Return the status of an entity's error; brokers that give none mean their own trouble."""
    status = error.get("status", 500) if isinstance(error, dict) else 500
    return status if isinstance(status, int) else int(status) if str(status).isdigit() else 500


def _words(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    return ": ".join(str(error[k]) for k in ("title", "detail") if error.get(k)) or str(error)


def _reason(body: bytes) -> str:
    try:
        return _words(loads(body))[:200]
    except ValueError:
        return body[:200].decode(errors="replace").strip()
