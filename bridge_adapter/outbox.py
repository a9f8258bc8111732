"""Streams on the way out: items are encoded as they are produced and sent by a thread of their own.

While one frame is being sent the next items gather, so fast generators travel in large batches and slow ones item by item, without a timer.
The session's lock is held only while the generator runs, so the consumer may use the same session between items.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from bridge_adapter import calls, errors, lane, threads, tracing
from bridge_adapter.calls import Call
from bridge_adapter.context import Context, from_tool
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.request import Request
from bridge_adapter.tools.registry import ToolError

if TYPE_CHECKING:
    from bridge_adapter.connection import Connection
    from bridge_adapter.lane import Message
    from bridge_adapter.sessions import Session

DEFAULT_CREDIT = 256
MAX_CREDIT = 1 << 20
FRAME_BYTES = 1 << 20
UNSENT_BYTES = 16 << 20  # what a stream makes ahead of a client that does not read, whatever its credit; and one item more
_FULL_LOOK_SECONDS = 0.002


def stream_items(connection: Connection, dispatcher: Dispatcher, request: Request, message: Message) -> bytes:
    """Produces and sends the items of a stream; returns its packed result. Raises what the generator raised."""
    dispatcher.stream_tool(request)
    credit = message.body.get("credit", DEFAULT_CREDIT)
    if type(credit) is not int or not 1 <= credit <= MAX_CREDIT:
        raise errors.InvalidRequest(f"credit must be an integer from 1 to {MAX_CREDIT}, not {str(credit)[:40]}")
    connection.open_credit(message.id, credit)
    producer = _Producer(connection, dispatcher, request, message.id, _count(message.body.get("skip")))
    try:
        producer.run()
    finally:
        connection.close_credit(message.id)
    return lane.stream_end(producer.sent, producer.returned)


class _Producer:
    """Runs one stream: take the session's turn, produce while there is credit, let go, wait for credit."""

    def __init__(self, connection: Connection, dispatcher: Dispatcher, request: Request, id: int, skip: int) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._request = request
        self._id = id
        self._packer = connection.stream_packer()
        self._source: Iterator[Any] | None = None
        self._skip = skip
        self._context: Context | None = None
        self._session: Session | None = None
        self._outbox = Outbox(lambda items: connection.socket.send(lane.items_head(id, len(items)), *items))
        self.sent = 0
        self.returned: bytes | None = None  # what the generator returned, packed

    def run(self) -> None:
        call = self._request.call
        try:
            while True:
                self._await_room(call)
                self._connection.await_credit(self._id, call)
                if call.reason is not None:
                    raise call.interruption()
                with self._dispatcher.entered(self._request) as session:
                    done = session.run(lambda: call.run(self._produce))
                if done:
                    break
        except errors.CallWasCancelled:
            if call.reason != "halted":
                raise
            self._outbox.discard()
        except ToolError as error:
            raise from_tool(error) from error
        finally:
            try:
                self._close_source()
            finally:
                if self._session is not None:
                    self._session.streams.discard(self)
                self._outbox.close()

    def _await_room(self, call: Call) -> None:
        """Serves the connection until the client has read some of what waits for it, or the call is cancelled."""
        while self._outbox.full and call.reason is None:
            self._connection.serve_one(call, time.monotonic() + _FULL_LOOK_SECONDS)

    def _produce(self) -> bool:
        """Produces until there is no credit or room, somebody waits for the session, or the source ends (True)."""
        with tracing.attached(self._request.call.trace):
            return self._produce_items()

    def _produce_items(self) -> bool:
        if self._source is None:
            self._open()
        source, context, connection, id = self._source, self._context, self._connection, self._id
        assert source is not None and context is not None
        lock = context.session.lock
        outbox = self._outbox
        encode, put, request = self._dispatcher.encode_value, outbox.put, self._request
        form, call = request.form, request.call
        tagged = form.encoding == "tagged"
        budget = connection.credit(id)
        made = 0
        advance = source.__next__
        try:
            while True:
                try:
                    item = advance()
                except StopIteration as end:
                    # Only `packed` has a place for it; a stream of the other forms ends without a value.
                    if end.value is not None and form.encoding == "packed":
                        self.returned = encode(end.value, form, self._packer, context)
                    return True
                data = encode(item, form, self._packer, context)
                if call.spool is not None:
                    call.spool.before_item()
                put(self._packer.pack(data) if tagged else data)
                made += 1
                if made >= budget or lock.contended or outbox.full:
                    return False
        finally:
            connection.spend(id, made)
            self.sent += made

    def _open(self) -> None:
        session = self._session = self._request.call.session
        self._dispatcher.check_bytes(self._request, session)
        session.streams.add(self)
        self._context = context = Context(self._dispatcher, session, self._request)
        payload = context.payload()
        if session.lineage is not None:
            self._dispatcher.recovery().streams(context, payload)
        self._source = self._dispatcher.stream_tool(self._request)(payload, context)
        if self._skip:
            self._go_on()

    def _go_on(self) -> None:
        """Leaves out the items that the client has: the worker that sent them is gone."""
        resume = getattr(self._source, "__snakebridge_resume__", None)
        if resume is not None:
            resume(self._skip)
        else:
            deque(itertools.islice(self._source or (), self._skip), maxlen=0)

    def _close_source(self) -> None:
        close: Callable[[], None] | None = getattr(self._source, "close", None)
        if close is None:
            return

        call = self._request.call
        begun = False

        def closing() -> None:
            nonlocal begun
            begun = True
            with calls.on_behalf(call):  # what its `finally` prints is the stream's
                close()

        try:
            with self._dispatcher.entered(self._request) as session:
                session.run(closing)
        except errors.BridgeError:
            if begun:
                raise
            # A cancelled call waits for no session that is busy: this one's answer does not, its generator has to.
            threading.Thread(target=self._close_in_turn, args=(closing,), name="end of a stream", daemon=True).start()

    def _close_in_turn(self, closing: Callable[[], None]) -> None:
        call = self._request.call
        calls.serve(call)
        closer = Call(call.key, parent=call.parent)
        closer.begun = True  # whatever the queue's bounds
        with self._dispatcher.entered(replace(self._request, call=closer)) as session:
            session.run(closing)


def _count(skip: Any) -> int:
    if skip is None:
        return 0
    if type(skip) is not int or skip < 0:
        raise errors.InvalidRequest(f"skip must be a number of items >= 0, not {str(skip)[:40]}")
    return skip


class Outbox:
    """Encoded items on their way to the client, sent in the background in batches.

    Built on SimpleQueue, whose operations an interruption of the producing thread cannot tear apart.
    """

    def __init__(self, send: Callable[[list[bytes]], None]) -> None:
        self._send = send
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._failure: OSError | None = None
        self._discard = False
        self._put_bytes = self._sent_bytes = 0  # each is only changed by one thread
        self._thread: threading.Thread | None = None

    def put(self, item: bytes) -> None:
        """Adds an item. Raises the OSError of a connection that broke."""
        if self._failure is not None:
            raise self._failure
        self._queue.put(item)
        self._put_bytes += len(item)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="stream", daemon=True)
            try:
                threads.begin(thread)
            except errors.Unavailable as refusal:
                raise refusal.after_effects() from None  # the generator has made an item
            self._thread = thread

    @property
    def full(self) -> bool:
        """True when no more should be added before some of it was sent."""
        return self._put_bytes - self._sent_bytes > UNSENT_BYTES

    def discard(self) -> None:
        """Drops what was not sent yet: the client wants no more."""
        self._discard = True

    def close(self) -> None:
        """Waits until everything is sent. Raises the OSError of a connection that broke."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        item = self._queue.get()
        while item is not None:
            batch, size = [item], len(item)
            item = self._more()
            while item is not None and item is not _PAUSE and size < FRAME_BYTES:
                batch.append(item)
                size += len(item)
                item = self._more()
            if not self._discard:
                try:
                    self._send(batch)
                except OSError as error:
                    self._failure, self._discard = error, True
            self._sent_bytes += size
            if item is _PAUSE:
                item = self._queue.get()

    def _more(self) -> bytes | None:
        """The next item, None at the end, or _PAUSE when there is none yet."""
        try:
            return self._queue.get_nowait()
        except Empty:
            return _PAUSE


_PAUSE = b"no item yet"  # compared by identity
