"""How a request comes to run in its session: the session is opened, the request waits for its turn there, and nothing holds it up any more.

Whoever leaves lets the next one have his turn, whatever has happened inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_adapter.request import Request, session_of
from bridge_adapter.sessions import Session

if TYPE_CHECKING:
    from bridge_adapter.dispatch import Dispatcher
    from bridge_adapter.session_lock import SessionLock


class Entered:
    """Opens the session of a request and takes its turn; leaves with the lock released."""

    __slots__ = ("_dispatcher", "_lock", "_request")

    def __init__(self, dispatcher: Dispatcher, request: Request) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._lock: SessionLock | None = None

    def __enter__(self) -> Session:
        call, sessions = self._request.call, self._dispatcher.sessions
        session_id = session_of(self._request)
        while True:
            if sessions.leaving and not self._request.admitted:
                if call.parent is None:
                    sessions.refuse_stateless(session_id)
                else:
                    sessions.refuse_given(session_id)
            session = sessions.open(session_id)
            call.session, call.session_id = session, session_id
            if self._request.options is not None:
                session.configure(self._request.options)
            if session.concurrent and not session.closed:
                return self._inside(session)
            owner = session.lock.owner
            if owner is not None and call.parent is None and self._request.form.encoding == "tagged":
                # Snakepit does not tell from where a call is made. While the session waits for an Elixir function, it may be from there.
                call.host = owner.innermost_asking()
            lock = session.lock.acquire(call)
            if not session.closed:
                self._lock = lock
                if sessions.leaving and not self._request.admitted:
                    self._refuse_given(lock, session_id)
                return self._inside(session)
            # Released while this call waited: what comes now is a new session of that name.
            lock.release()

    def _refuse_given(self, lock: SessionLock, session_id: str) -> None:
        try:
            self._dispatcher.sessions.refuse_given(session_id)
        except BaseException:
            lock.release()
            raise

    def _inside(self, session: Session) -> Session:
        dispatcher, call = self._dispatcher, self._request.call
        self._request.admitted = True
        try:
            dispatcher.pause.enter(call)
            if dispatcher.watch is not None and dispatcher.watch.due():
                call.run(lambda: dispatcher.reload_changed(call))
            if session.recovers is not None and self._request.asked is None:
                dispatcher.recovery().enter(session, self._request)
        except BaseException:
            self.__exit__()
            raise
        return session

    def __exit__(self, *_: object) -> None:
        self._dispatcher.pause.leave(self._request.call)
        if self._lock is not None:
            self._lock.release()
