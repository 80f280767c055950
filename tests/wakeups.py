"""What each thread does in the model of `wakeup_state`, block by block."""

from __future__ import annotations

from wakeup_state import BLOCKS, RULES, Block, Thread, Wakeups, locked, unlocked, waits

__all__ = ["RULES", "Wakeups"]

READ, WRITE = 1, 2
MOST_USERS = 4


# What became due


@unlocked
def wake_reader(model: Wakeups, thread: Thread) -> None:
    model.wake = model.has("a wake outlasts that nobody waits yet") or any(
        each.stack[-1:] == ("link_wait",) for each in model.threads
    )


@unlocked
def shut(model: Wakeups, thread: Thread) -> None:
    wake_reader(model, thread)


def unparks(number: int) -> Block:
    """A block that unparks a thread, which must not have gone."""

    def unpark_it(model: Wakeups, thread: Thread) -> None:
        woken = model.threads[number]
        model.wrong |= "unpark" not in woken.stack
        woken.signalled = True

    return unpark_it


for each_user in range(MOST_USERS):
    BLOCKS[f"unpark {each_user}"] = unparks(each_user)


@unlocked
def look(model: Wakeups, thread: Thread) -> None:
    model.listed = model.keeper_wake = True


@unlocked
def flush(model: Wakeups, thread: Thread) -> None:
    model.flush_listed = True
    if model.flusher_sleeps:
        model.flusher_sleeps = False
        model.flusher_signalled = True


# Waiting


@locked
def wait_for(model: Wakeups, thread: Thread) -> None:
    if model.satisfied(thread):
        return
    if not thread.reader and not model.reading and model.needs_reader(thread):
        model.take_role(thread)
    if thread.reader:
        thread.stack += ("wait_for", "read_pass")
    elif model.has("a waiter looks under the lock under which it parks"):
        thread.stack += ("park",)
    else:
        thread.stack += ("park", "pause")


@unlocked
def pause(model: Wakeups, thread: Thread) -> None:
    """Others may run."""


@locked
def park(model: Wakeups, thread: Thread) -> None:
    thread.woken = thread.roused = False
    thread.parked = True
    thread.stack += ("unpark", "sleep")


@waits(lambda model, thread: thread.signalled or not thread.patient)
def sleep(model: Wakeups, thread: Thread) -> None:
    thread.result = "woken" if thread.signalled else ""
    thread.signalled = False


@locked
def unpark(model: Wakeups, thread: Thread) -> None:
    thread.parked = False
    if thread.woken and not thread.result:
        thread.result = "woken"  # just then
        if model.has("who is to be unparked waits for that though its time is over"):
            thread.stack += ("unpark", "unpark_comes")
            return
    if thread.result and model.has("a waiter looks again when it has been woken"):
        thread.stack += ("wait_for",)
    thread.result = ""


@waits(lambda model, thread: thread.signalled)
def unpark_comes(model: Wakeups, thread: Thread) -> None:
    thread.signalled = False


@locked
def read_pass(model: Wakeups, thread: Thread) -> None:
    if not model.down:
        model.stirred = False
        thread.stack += ("read_first",)
        if model.queued and not model.writing:
            thread.stack += ("pump",)


@locked
def read_first(model: Wakeups, thread: Thread) -> None:
    thread.has_read = False
    thread.stack += ("read_waits",)
    if not model.drained:
        thread.stack += ("read_once",)


@locked
def read_waits(model: Wakeups, thread: Thread) -> None:
    looks_again = model.stirred and model.has(
        "a reader to whom something happens while it reads looks again"
    )
    if not (thread.has_read or looks_again):
        model.reader_waits = True
        thread.result = "rw" if model.blocked else "r"
        thread.stack += ("read_ready", "link_wait")
        if not model.has("a wake outlasts that nobody waits yet"):
            thread.stack += ("pause",)
    thread.has_read = False


def link_is_ready(model: Wakeups, thread: Thread) -> bool:
    """Whether what a reader waits for is there."""
    writable = "w" in thread.result and model.peer_has_room
    return model.wake or model.readable or writable or not thread.patient


@waits(link_is_ready)
def link_wait(model: Wakeups, thread: Thread) -> None:
    writable = "w" in thread.result and model.peer_has_room
    thread.result = "r" * model.readable + "w" * writable
    if not thread.result and not model.wake:  # the time is over
        thread.stack = tuple(each for each in thread.stack if each != "wait_for")
    model.wake = False


@locked
def read_ready(model: Wakeups, thread: Thread) -> None:
    model.reader_waits = False
    events, thread.result = thread.result, ""
    if "r" in events:
        thread.stack += ("read_done", "read_once")
    if "w" in events:
        model.blocked = False
        thread.stack += ("pump",)


@locked
def read_done(model: Wakeups, thread: Thread) -> None:
    thread.has_read = False


# Reading


@locked
def read_once(model: Wakeups, thread: Thread) -> None:
    if not model.down:
        thread.stack += ("received", "read")


@unlocked
def read(model: Wakeups, thread: Thread) -> None:
    """The system call: what it took is the kernel's no more, and not yet the session's."""
    count = len(model.incoming)
    if count > 1 and model.choose(2):
        count = 1
    thread.result, model.incoming = model.incoming[:count], model.incoming[count:]
    if not model.incoming:
        thread.result += "|"


@locked
def received(model: Wakeups, thread: Thread) -> None:
    taken, thread.result = thread.result, ""
    model.drained = taken.endswith("|")
    thread.has_read = taken != "|"
    for each in taken.rstrip("|"):
        if each == ".":
            model.unacked -= 1
        else:
            model.unread[each] += 1
            model.wake_receivers(each)
    if "." in taken and model.has("a reader wakes those who wait for acks"):
        model.wake_others()
    if model.queued and not model.writing:
        thread.stack += ("pump",)


# Writing


@locked
def pump(model: Wakeups, thread: Thread) -> None:
    if not (model.writing or model.blocked or model.down):
        model.writing = True
        thread.rounds = model.limits[3]
        thread.stack += ("prepare",)


@locked
def prepare(model: Wakeups, thread: Thread) -> None:
    thread.stack += ("pumped",)
    if model.queued == 0:
        if model.has("a writer wakes those who wait for room"):
            model.wake_others()
        if not model.has("a writer looks for more before it gives up"):
            thread.stack += ("pause",)
    elif thread.rounds == 0:
        if model.has("who has written for long leaves the rest to the flusher"):
            model.watched = True
            model.becomes_due("flush")
    else:
        thread.rounds -= 1
        thread.stack = (*thread.stack[:-1], "wrote", "write")


@unlocked
def write(model: Wakeups, thread: Thread) -> None:
    """The system call: one frame, if the kernel has room."""
    thread.result = "wrote" if model.kernel < model.limits[0] else ""
    model.kernel += len(thread.result) // 5


@locked
def wrote(model: Wakeups, thread: Thread) -> None:
    if thread.result:
        model.queued -= 1
    else:
        model.blocked = True
    thread.result = ""
    if model.has("a writer wakes those who wait for room"):
        model.wake_others()
    thread.stack += ("pumped" if model.blocked or model.down else "prepare",)


@locked
def pumped(model: Wakeups, thread: Thread) -> None:
    model.writing = False
    thread.rounds = 0
    if model.blocked and not model.down:
        if model.reading != "user":
            if model.has("the keeper looks when the kernel is full"):
                model.becomes_due("look")
        elif model.reader_waits and model.has("the reader is woken when the kernel is full"):
            model.becomes_due("wake_reader")
    if not model.reading and model.has("a writer that leaves passes the role on"):
        model.pass_role()


# Users


@locked
def receive(model: Wakeups, thread: Thread) -> None:
    if model.down or (thread.wanted in model.stopped and not model.unread[thread.wanted]):
        thread.stack = ("back",) if thread.roused else ()
    elif model.unread[thread.wanted] > 0:
        model.unread[thread.wanted] -= 1
        thread.todo -= 1
        thread.stack = ("receive", "pause") if thread.todo else ()
    else:
        model.begin_wait(thread, thread.wanted)
        thread.stack = ("receive_again", "wait_for")


@locked
def receive_again(model: Wakeups, thread: Thread) -> None:
    model.end_wait(thread)
    if thread.patient or model.unread[thread.wanted]:
        thread.stack = ("receive",)


@locked
def send(model: Wakeups, thread: Thread) -> None:
    if model.down:
        thread.stack = ()
    elif not model.has_room and (model.lacks_credit or thread.name[0] != "c"):
        model.begin_wait(thread, "room")
        thread.stack = ("send", "pause", "waited", "wait_for", "pump")
    else:
        model.queued += 1
        model.unacked += 1
        thread.todo -= 1
        after = ("send",) if thread.todo else ("await_acks",) if thread.name[0] == "s" else ()
        thread.stack = (*after, "pause", "sent")


@locked
def sent(model: Wakeups, thread: Thread) -> None:
    """Something was queued: it is written at once, or left for the flusher in a stream."""
    if model.writing or model.blocked or model.down:
        return
    if not (model.streams and model.choose(2)):
        thread.stack += ("pump",)
    elif not model.watched:
        model.watched = True
        if model.has("the flusher is told of what is left for it"):
            model.becomes_due("flush")


@locked
def waited(model: Wakeups, thread: Thread) -> None:
    model.wrong |= not model.satisfied(thread)
    model.end_wait(thread)
    thread.stack += ("back",)


@unlocked
def back(model: Wakeups, thread: Thread) -> None:
    """The thread has the interpreter's lock again."""
    thread.roused = False
    if model.rousing:
        thread.stack += ("rouse",)


@locked
def rouse(model: Wakeups, thread: Thread) -> None:
    model.rouse()


@locked
def await_acks(model: Wakeups, thread: Thread) -> None:
    model.begin_wait(thread, "acks")
    thread.stack = ("waited", "wait_for", "pump")


@locked
def close(model: Wakeups, thread: Thread) -> None:
    model.down = True
    model.becomes_due("shut")
    model.becomes_due("look")
    model.wake_all()


@locked
def stop(model: Wakeups, thread: Thread) -> None:
    model.stopped += thread.name[-1]
    for index in model.waiters:
        if model.threads[index].wanted in model.stopped:
            model.wake_up(model.threads[index])


# The keeper


def keeper_events(model: Wakeups) -> str:
    """What the keeper's poller has to report."""
    readable = model.armed & READ and model.readable
    writable = model.armed & WRITE and model.peer_has_room
    return ("r" if readable else "") + ("w" if writable else "")


@waits(lambda model, thread: model.keeper_wake or model.timed or bool(keeper_events(model)))
def keep(model: Wakeups, thread: Thread) -> None:
    thread.result = keeper_events(model)
    model.keeper_wake = model.timed = False
    thread.stack = ("keep", "take_looks")
    if thread.result:
        model.armed = 0
        thread.stack += ("visit",)


@unlocked
def take_looks(model: Wakeups, thread: Thread) -> None:
    if model.has("a look during a visit makes another one"):
        model.listed = False
        thread.stack += ("visit",)
    elif model.listed:
        thread.stack += ("unlist", "visit")


@unlocked
def unlist(model: Wakeups, thread: Thread) -> None:
    model.listed = False


@locked
def visit(model: Wakeups, thread: Thread) -> None:
    events, thread.result = thread.result, ""
    if "w" in events:
        model.blocked = False
    thread.stack += ("visit_writes",)
    if "r" in events and not model.reading and not model.down:
        model.reading = "keeper"
        model.drained = False
        thread.stack += ("visit_reads", "read_once")


@locked
def visit_reads(model: Wakeups, thread: Thread) -> None:
    thread.has_read = False
    if not (model.drained or model.down):
        thread.stack += ("visit_reads", "read_once")
    else:
        model.reading = ""
        model.pass_role()


@locked
def visit_writes(model: Wakeups, thread: Thread) -> None:
    thread.stack += ("visit_ends",)
    if model.queued and not model.writing:
        thread.stack += ("pump",)


@locked
def visit_ends(model: Wakeups, thread: Thread) -> None:
    if model.rousing and model.has("the keeper rouses those who are left"):
        model.rouse()
        model.timed |= model.rousing
    if model.down:
        return
    if not model.owned:
        if not model.reading and model.takes_over and model.choose(2):
            model.owned = True
        else:
            model.timed = True
    thread.result = "r" if model.owned and model.reading != "user" else ""
    if model.blocked and model.reading != "user":
        thread.result += "w"
    model.due = tuple(each for each in model.due if each != "look")
    if thread.result:
        thread.stack += ("watch",)


@unlocked
def watch(model: Wakeups, thread: Thread) -> None:
    want = READ * ("r" in thread.result) | WRITE * ("w" in thread.result)
    thread.result = ""
    if want & ~model.armed and model.has("a visit arms the link again"):
        model.armed = want


# The flusher


@unlocked
def flush_loop(model: Wakeups, thread: Thread) -> None:
    if not model.flush_listed:
        model.flusher_sleeps = True
        thread.stack = ("flush_loop", "flusher_sleeps")
        return
    if model.has("a flush during a turn makes another one"):
        model.flush_listed = False
    thread.stack = ("flushed", "flush_engine")


@waits(lambda model, thread: model.flusher_signalled)
def flusher_sleeps(model: Wakeups, thread: Thread) -> None:
    model.flusher_signalled = False


@locked
def flush_engine(model: Wakeups, thread: Thread) -> None:
    elapsed = model.choose(3)  # nothing, a pause, or so much that the stream is over
    thread.stack += ("flush_ends",)
    if elapsed == 2:
        if model.has("the end of a stream is said before its rest is written"):
            model.watched = False
        else:
            thread.stack += ("stream_ends",)
    if elapsed and model.queued:
        thread.stack += ("pump",)


@locked
def stream_ends(model: Wakeups, thread: Thread) -> None:
    model.watched = False


@locked
def flush_ends(model: Wakeups, thread: Thread) -> None:
    model.due = tuple(each for each in model.due if each != "flush")
    thread.result = "again" if model.watched else ""


@unlocked
def flushed(model: Wakeups, thread: Thread) -> None:
    if not model.has("a flush during a turn makes another one"):
        model.flush_listed = False
    if thread.result:
        model.flush_listed = True
    thread.result = ""
    flush_loop(model, thread)


# The peer


@waits(lambda model, thread: not model.down and bool(model.kernel or model.to_come))
def peer(model: Wakeups, thread: Thread) -> None:
    """Reads a frame and answers it, or sends something of its own."""
    thread.stack = ("peer",)
    if model.to_come and not (model.kernel and model.choose(2)):
        model.incoming += model.to_come[0]
        model.to_come = model.to_come[1:]
        return
    model.kernel -= 1
    model.owed += 1
    answer, model.answers = model.answers[:1] or ".", model.answers[1:]
    if answer == ".":
        model.incoming += "." * model.owed
        model.owed = 0
    elif answer != "-":
        model.incoming += answer
