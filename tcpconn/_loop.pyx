"""What ties engines to an event loop: who tells it of waits that are over, and reads links in it.

A wait (`Wait`) is a waiter of an engine, as a thread's is, but it lies in an object that a task
awaits. Whoever makes its condition true, in any thread and without the GIL, puts it into the list
of the loop's herald and signals the loop, once until it has looked. The loop then goes on with the
tasks one after the other, at once: not in its next turn, which would cost a system call more.

The loop waits for the descriptors of its links too (`LinkWatch`), and does what the keeper does for
the links of threads: it reads what is there, and tells those who waited for it. Where it cannot
wait for a descriptor (links through TLS, which have bytes that no descriptor tells of; loops
without `add_reader`), the keeper goes on reading, and the herald brings the news.
"""

cimport cython
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.pystate cimport PyThreadState
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t

from tcpconn._accept cimport AcceptQueue
from tcpconn._engine cimport KEEPER, NOBODY, Engine
from tcpconn._state cimport Conn
from tcpconn._sync cimport (
    tc_mutex_destroy,
    tc_mutex_init,
    tc_mutex_lock,
    tc_mutex_unlock,
    tc_poke,
    tc_take_pokes,
)
from tcpconn._waiting cimport DUE_LOOK, WANT_MESSAGE, Herald

import asyncio
import os

from tcpconn import errors


cdef enum:
    LINK_READS = 4              # of one link, before another's turn comes
    DRAIN_MOST = 256            # tasks that go on before the loop has its turn
    BUDGET = 256                # operations that need not wait, before the loop has its turn

cdef enum Found:                # how reading has left a link
    FOUND_UP
    FOUND_DOWN
    FOUND_PAUSED                # it may not be read for a while


PAUSE_SECONDS = 0.02
"""After which the loop looks whether a link may be read again; the keeper looks after it until
then."""

_running = asyncio._get_running_loop


cdef extern from "Python.h":
    PyThreadState* PyThreadState_Get()
    PyObject* PyThreadState_GetDict()
    PyObject* PyDict_GetItemWithError(PyObject* mapping, object key) except? NULL

cdef str _NOTE = "__asyncio_running_event_loop__"


cdef PyObject* noted_running() except? NULL:
    """What asyncio has noted for this thread about its running loop: not the same before a loop
    runs, while it runs, and after it. NULL where asyncio notes it elsewhere.

    To ask asyncio itself is a system call in some versions of Python.
    """
    cdef PyObject* notes = PyThreadState_GetDict()
    return NULL if notes is NULL else PyDict_GetItemWithError(notes, _NOTE)


cdef class LoopHerald(Herald):
    """One event loop's. Made and used in the loop's thread, but for what engines call."""

    def __cinit__(self, loop):
        tc_mutex_init(&self.mutex)
        self.loop = loop
        self.over = asyncio.Future(loop=loop)
        self.over.set_result(None)
        self.watches = set()
        self.queues = set()
        self.budget = BUDGET
        self.descriptor = -1
        self.poker = -1
        if not hasattr(os, "eventfd"):
            self.descriptor, self.poker = os.pipe()
            os.set_blocking(self.descriptor, False)
            os.set_blocking(self.poker, False)
        else:
            self.descriptor = self.poker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            loop.add_reader(self.descriptor, self.heard)
        except NotImplementedError:
            self.close_descriptors()

    def __dealloc__(self):
        self.close_descriptors()
        tc_mutex_destroy(&self.mutex)

    cdef void close_descriptors(self) noexcept:
        cdef int descriptor = self.descriptor
        cdef int poker = self.poker
        cdef bint busy = True
        self.descriptor = -1
        while busy:                     # engines may signal for as long as they have this object
            tc_mutex_lock(&self.mutex)
            self.poker = -1
            busy = self.poking > 0
            tc_mutex_unlock(&self.mutex)
        if descriptor >= 0:
            os.close(descriptor)
            if poker != descriptor:
                os.close(poker)

    cdef int check(self) except -1:
        """Raises `WrongLoop` unless this thread runs the loop."""
        cdef PyObject* noted
        if self.driver is PyThreadState_Get() and not self.left:
            return 0
        noted = noted_running()
        if noted is not NULL and noted is <PyObject*> self.seen:
            return 0
        running = _running()
        if running is self.loop and not self.left:
            self.seen = None if noted is NULL else <object> noted
            return 0
        if running is self.loop:
            raise errors.WrongLoop("this event loop is ending: tcpconn has left it")
        where = "a thread without an event loop" if running is None else "another event loop"
        raise errors.WrongLoop(
            f"this object belongs to the event loop in which it was made, and was used from {where}"
        )

    def check_loop(self, loop):
        """The same, for what belongs to a certain loop."""
        if loop is not self.loop:
            raise errors.WrongLoop("this object belongs to another event loop")
        self.check()

    cdef bint spent(self, Py_ssize_t cost) noexcept:
        """Whether the loop is to have its turn before the next operation."""
        self.budget -= cost
        if self.budget > 0:
            return False
        self.budget = BUDGET
        return True

    # From any thread

    cdef bint is_first(self) noexcept nogil:
        """Under the lock, after there is something to be told: whether nobody has signalled yet."""
        cdef bint first = not self.signalled
        self.signalled = True
        return first

    cdef bint add(self, Waiter* waiter) noexcept nogil:
        cdef bint first
        tc_mutex_lock(&self.mutex)
        waiter.told = True
        waiter.told_next = NULL
        if self.last is NULL:
            self.first = waiter
        else:
            self.last.told_next = waiter
        self.last = waiter
        first = self.is_first()
        tc_mutex_unlock(&self.mutex)
        return first

    cdef bint accept_soon(self) noexcept nogil:
        """Somebody is to be accepted. Whether `signal` is to be called."""
        cdef bint first
        tc_mutex_lock(&self.mutex)
        self.accepting = True
        first = self.is_first()
        tc_mutex_unlock(&self.mutex)
        return first

    cdef bint release_links(self) noexcept nogil:
        cdef bint first
        tc_mutex_lock(&self.mutex)
        self.releasing = True
        first = self.is_first()
        tc_mutex_unlock(&self.mutex)
        return first

    cdef void signal(self) noexcept nogil:
        cdef int poker
        if self.left:
            return
        tc_mutex_lock(&self.mutex)
        poker = self.poker
        if poker >= 0:
            self.poking += 1
        tc_mutex_unlock(&self.mutex)
        if poker >= 0:
            tc_poke(poker)
            tc_mutex_lock(&self.mutex)
            self.poking -= 1
            tc_mutex_unlock(&self.mutex)
            return
        with gil:
            try:
                self.loop.call_soon_threadsafe(self.look)
            except RuntimeError:
                pass                    # it is closed

    # In the loop

    def heard(self):
        """The descriptor is readable."""
        tc_take_pokes(self.descriptor)
        self.drain()

    def look(self):
        """The same, for loops that cannot wait for descriptors."""
        self.drain()

    cdef void forget(self, Waiter* waiter) noexcept:
        """The wait was called off. Under its session's lock, so that nobody adds it meanwhile."""
        cdef Waiter* at
        cdef Waiter* before = NULL
        if not waiter.told:
            return
        tc_mutex_lock(&self.mutex)
        if waiter.told:
            at = self.first
            while at is not waiter:
                before = at
                at = at.told_next
            if before is NULL:
                self.first = waiter.told_next
            else:
                before.told_next = waiter.told_next
            if self.last is waiter:
                self.last = before
            waiter.told = False
        tc_mutex_unlock(&self.mutex)

    cdef int stop_watches(self) except -1:
        """Lets go of links that went down without the loop's noticing: uvloop tells only once of a
        descriptor in error, and it may have been in use then.
        """
        for watch in tuple(self.watches):
            (<LinkWatch> watch).stop_if_down()
        return 0

    cdef void attend(self) noexcept nogil:
        """The loop is about to look anyway: nobody need signal it."""
        tc_mutex_lock(&self.mutex)
        self.signalled = True
        tc_mutex_unlock(&self.mutex)

    cdef int drain(self) except -1:
        """Goes on with what waited and need not any more."""
        self.attend()
        return self.go_on()

    cdef int go_on(self) except -1:
        """The same, behind `attend`."""
        cdef Waiter* waiter
        cdef bint accepting, releasing
        cdef int left = DRAIN_MOST
        self.budget = BUDGET
        try:
            while left > 0:
                left -= 1
                wait = None
                tc_mutex_lock(&self.mutex)
                waiter = self.first
                accepting = self.accepting
                self.accepting = False
                releasing = self.releasing
                self.releasing = False
                if waiter is NULL and not accepting and not releasing:
                    self.signalled = False
                    tc_mutex_unlock(&self.mutex)
                    return 0
                if waiter is not NULL:
                    self.first = waiter.told_next
                    if self.first is NULL:
                        self.last = NULL
                    waiter.told = False
                    wait = <Wait> waiter.told_by    # alive: the engine holds a reference
                tc_mutex_unlock(&self.mutex)
                if releasing:
                    self.stop_watches()
                if accepting:
                    for queue in tuple(self.queues):
                        if queue in self.queues:
                            (<LoopQueue> queue).on_accept()
                if wait is not None:
                    (<Wait> wait).tell()
        except BaseException:
            self.signal()
            raise
        self.signal()                   # there may be more
        return 0

    def leave(self):
        """The loop is about to end, or has: links go to the keeper, and nothing waits here."""
        self.left = True
        self.seen = None
        for watch in tuple(self.watches):
            watch.stop()
        if self.descriptor >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self.descriptor)
        self.close_descriptors()


@cython.freelist(64)
cdef class Wait:
    """What a task awaits: a future, as far as tasks can tell."""

    # The engine's side

    cdef void begin(self, Conn* conn, int wanted, uint64_t amount) noexcept:
        """Under the session's lock."""
        self.engine.begin_wait(&self.waiter, conn, wanted, amount)
        self.waiter.told_by = <void*> self
        self.waiting = True
        self._asyncio_future_blocking = True
        Py_INCREF(self)

    cdef void end(self) noexcept:
        """The engine has nothing to do with it any more."""
        if not self.waiting:
            return
        self.waiting = False
        self.engine.lock()
        self.engine.end_wait(&self.waiter)
        self.herald.forget(&self.waiter)
        self.engine.unlock()
        Py_DECREF(self)

    cdef int tell(self) except -1:
        """It is over: the task goes on, here and now."""
        cdef LoopHerald herald = self.herald
        cdef PyThreadState* driver
        self.end()
        callback = self.callback
        context = self.context
        self.callback = None
        self.context = None
        if callback is None:
            return 0
        PyContext_Enter(context)
        driver = herald.driver
        herald.driver = PyThreadState_Get()
        try:
            callback(herald.over)
        finally:
            herald.driver = driver
            PyContext_Exit(context)
        return 0

    cdef void pass_on(self) noexcept:
        """Who waited does not take what it was woken for: it is for another."""
        cdef Engine engine = self.engine
        engine.lock()
        if self.waiter.wanted == WANT_MESSAGE:
            engine.wake_receivers(self.waiter.conn)
        else:
            engine.wake_others()
        engine.unlock()

    # The task's side

    def get_loop(self):
        """The loop that this belongs to."""
        return self.herald.loop

    def add_done_callback(self, callback, *, context=None):
        """For the one task that awaits it."""
        if not self.waiting:
            self.herald.loop.call_soon(callback, self, context=context)
            return
        if self.callback is not None:
            raise RuntimeError("this is awaited already")
        self.callback = callback
        self.context = context
        if context is None:
            import contextvars
            self.context = contextvars.copy_context()

    def remove_done_callback(self, callback):
        """How many there were."""
        if self.callback != callback:
            return 0
        self.callback = None
        return 1

    def cancel(self, msg=None):
        """Whether it could be cancelled."""
        cdef bint woken
        if not self.waiting:
            return False
        woken = self.waiter.woken
        self.end()
        if woken:
            self.pass_on()
        self.is_cancelled = True
        self.reason = msg
        if self.callback is not None:
            self.herald.loop.call_soon(self.callback, self, context=self.context)
            self.callback = None
            self.context = None
        return True

    def cancelled(self):
        """Whether it was."""
        return self.is_cancelled

    def done(self):
        """Whether the wait is over."""
        return not self.waiting

    def result(self):
        """None, once it is over."""
        if self.is_cancelled:
            raise asyncio.CancelledError(*(() if self.reason is None else (self.reason,)))
        if self.waiting:
            raise asyncio.InvalidStateError("the wait is not over")

    def exception(self):
        """None, once it is over."""
        self.result()


cdef class LinkWatch:
    """One engine's link, as the loop waits for it."""

    def __cinit__(self, Engine engine, LoopHerald herald):
        self.engine = engine
        self.herald = herald
        self.descriptor = -1

    def start_soon(self):
        """There is another link. From any thread."""
        try:
            self.herald.loop.call_soon_threadsafe(self.start)
        except RuntimeError:
            pass                        # the loop is closed: the keeper reads

    def start(self):
        """The loop waits for the link from now on, if it can."""
        cdef Engine engine = self.engine
        cdef bint starts, paused
        if self.herald.left or self.herald.descriptor < 0:
            return
        engine.lock()
        paused = engine.s.paused
        starts = not (engine.down or engine.looped or engine.link.layered or paused)
        if starts:
            engine.looped = True        # from here on the keeper keeps the descriptor open
            engine.owned = False
            engine.heeded = False
            engine.due |= DUE_LOOK
        engine.unlock()
        if paused:
            self.herald.loop.call_later(PAUSE_SECONDS, self.start)
        if not starts:
            return
        try:
            self.descriptor = engine.link.socket.fileno()
            self.herald.loop.add_reader(self.descriptor, self.ready)
        except BaseException:
            self.descriptor = -1
            self.let_go()
            raise
        self.herald.watches.add(self)

    def ready(self):
        """There is something to read."""
        cdef Engine engine = self.engine
        cdef bint reads
        cdef int state
        self.herald.attend()
        engine.lock()
        reads = engine.reading == NOBODY and not engine.down
        if reads:
            engine.reading = KEEPER         # nobody is to wake this thread: it does not wait
            engine.drained = False
            if engine.s.direct is NULL:
                # At most a block: to give the GIL away and get it back would often take longer.
                engine.read_once()
        if not reads or engine.drained:
            state = end_reading(engine, reads)
        else:
            with nogil:
                read_on(engine)
                state = end_reading(engine, True)
        if state != FOUND_UP:
            self.stop()
            if state == FOUND_PAUSED:
                self.herald.loop.call_later(PAUSE_SECONDS, self.start)
        self.herald.go_on()

    def stop(self):
        """The loop does not wait for the link any more."""
        if self.descriptor < 0:
            return
        if not self.herald.loop.is_closed():
            self.herald.loop.remove_reader(self.descriptor)
        self.descriptor = -1
        self.herald.watches.discard(self)
        self.let_go()

    cdef int stop_if_down(self) except -1:
        cdef bint down
        self.engine.lock()
        down = self.engine.down
        self.engine.unlock()
        if down:
            self.stop()
        return 0

    cdef void let_go(self) noexcept:
        cdef Engine engine = self.engine
        engine.lock()
        engine.looped = False
        engine.owned = True
        engine.due |= DUE_LOOK
        engine.unlock()


cdef void read_on(Engine engine) noexcept nogil:
    """The lock is held, and held again afterwards."""
    cdef int _
    for _ in range(LINK_READS):
        if engine.drained or engine.down or engine.s.paused:
            return
        engine.read_once()


cdef int end_reading(Engine engine, bint read) noexcept nogil:
    """Gives up the role, if it was taken, and releases the lock. A Found."""
    cdef int found = FOUND_UP
    if read:
        engine.reading = NOBODY
        engine.pass_role()
        if not engine.heeded:
            engine.heeded = True
            engine.due |= DUE_LOOK      # what came may have set a time, for an ack
    if engine.s.paused:
        found = FOUND_PAUSED
    elif engine.down:
        found = FOUND_DOWN
    engine.unlock()
    return found


def tie(Engine engine, LoopHerald herald):
    """From now on the engine belongs to the herald's loop. In that loop; once is enough."""
    cdef bint is_tied
    watch = LinkWatch(engine, herald)
    engine.lock()
    is_tied = engine.herald is not None
    if not is_tied:
        engine.herald = herald
    engine.unlock()
    if not is_tied:
        engine.on_link = watch.start_soon
        watch.start()


cdef class LoopQueue(AcceptQueue):
    """What a listener of a loop accepts from; `on_accept` is called when there may be something."""

    def __init__(self, LoopHerald herald, on_accept):
        self.herald = herald
        self.on_accept = on_accept
        herald.queues.add(self)

    cdef void lined_up(self) noexcept nogil:
        if self.herald.accept_soon():
            self.herald.signal()

    def take(self, kind, Engine engine, bint asks):
        """One connection of an engine that was in the line; it lines up again if it has more."""
        tie(engine, self.herald)
        return AcceptQueue.take(self, kind, engine, asks)

    def close(self):
        """Nothing comes any more."""
        AcceptQueue.close(self)
        self.herald.queues.discard(self)
        self.on_accept = None
