# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=True, freethreading_compatible=True
"""One subject's loops: `limit`, what the machine allows (posix).

The same messages and system calls as the plain Python baselines, in compiled loops that never take
the GIL: what is left of the time is the kernel's. A message is a 4-byte big-endian length and its
payload. Every function works on a blocking socket's file descriptor and ends at the peer's end of
file or after `count` messages.

`poll_ns` is how long (in nanoseconds) a call asks the kernel again and again before it goes to
sleep; 0 sleeps at once. `stamps` takes the time at the start of every `stride`-th operation, from
the clock of `time.perf_counter_ns`; an empty array takes none.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

import os

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct linger:
        int l_onoff
        int l_linger
    int AF_INET, SOCK_STREAM, MSG_DONTWAIT, SOL_SOCKET, SO_RCVLOWAT, SO_LINGER
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, socklen_t length)
    int accept(int fd, sockaddr *address, socklen_t *length)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    int IPPROTO_TCP, INADDR_LOOPBACK
    uint32_t htonl(uint32_t value)
    unsigned short htons(unsigned short value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef enum:
    HEADER = 4
    END_OF_FILE = -2
    FAILED = -1
    # How many tries between two looks at the clock while polling: a try is a system call, so this
    # keeps the clock's cost below a tenth.
    TRIES = 16
    # Bytes that wake a batching reader: 64 messages of 1 KiB.
    LOW_WATER = 65536


cdef inline int64_t now() noexcept nogil:
    cdef timespec stamp
    clock_gettime(CLOCK_MONOTONIC, &stamp)
    return <int64_t>stamp.tv_sec * 1_000_000_000 + stamp.tv_nsec


cdef inline void store_length(uint8_t *at, uint32_t length) noexcept nogil:
    at[0] = length >> 24
    at[1] = (length >> 16) & 0xFF
    at[2] = (length >> 8) & 0xFF
    at[3] = length & 0xFF


cdef inline uint32_t load_length(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef ssize_t receive_some(int fd, uint8_t *into, size_t room, int64_t poll_ns) noexcept nogil:
    """At least one byte and at most `room`; 0 at the end of file, FAILED with errno otherwise."""
    cdef ssize_t got
    cdef int _attempt
    cdef int64_t deadline
    if poll_ns > 0:
        deadline = now() + poll_ns
        while True:
            for _attempt in range(TRIES):
                got = recv(fd, into, room, MSG_DONTWAIT)
                if got >= 0:
                    return got
                if errno != EAGAIN and errno != EINTR:
                    return FAILED
            if now() >= deadline:
                break
    while True:
        got = recv(fd, into, room, 0)
        if got >= 0 or errno != EINTR:
            return got


cdef int send_all(int fd, const uint8_t *data, size_t size, int64_t poll_ns) noexcept nogil:
    """Everything, or FAILED with errno. Polls when the socket's buffer is full."""
    cdef ssize_t sent
    cdef int64_t deadline = 0
    cdef int flags = MSG_DONTWAIT if poll_ns > 0 else 0
    while size > 0:
        sent = send(fd, data, size, flags)
        if sent >= 0:
            data += sent
            size -= sent
            deadline = 0
        elif errno == EAGAIN:
            if deadline == 0:
                deadline = now() + poll_ns
            elif now() >= deadline:
                flags = 0
        elif errno != EINTR:
            return FAILED
    return 0


cdef ssize_t receive_message(int fd, uint8_t *buffer, size_t room, int64_t poll_ns) noexcept nogil:
    """One message, where none follows before it is answered: its size, with the header.

    The first call asks for all of the room, so that a small message takes one call.
    """
    cdef size_t got = 0
    cdef size_t size = HEADER
    cdef ssize_t more
    while got < size:
        more = receive_some(fd, buffer + got, room - got, poll_ns)
        if more <= 0:
            return END_OF_FILE if more == 0 else FAILED
        got += more
        if got >= HEADER:
            size = HEADER + <size_t>load_length(buffer)
            if size > room:
                return FAILED
    return size


cdef int check(ssize_t outcome) except -1:
    """Raises what a loop's outcome says. Who awaits the end of file does not ask."""
    if outcome == END_OF_FILE:
        raise EOFError("the peer closed its socket")
    if outcome == FAILED:
        raise OSError(errno, os.strerror(errno))
    return 0


cdef uint8_t *allocate(size_t size) except NULL:
    cdef uint8_t *memory = <uint8_t *>malloc(size)
    if memory == NULL:
        raise MemoryError
    # Touch every page now, not in the timed loop.
    memset(memory, 0, size)
    return memory


cdef uint8_t *framed(const uint8_t[::1] payload) except NULL:
    cdef uint8_t *message = allocate(HEADER + payload.shape[0])
    store_length(message, payload.shape[0])
    if payload.shape[0]:
        memcpy(message + HEADER, &payload[0], payload.shape[0])
    return message


def echo(int fd, size_t largest, int64_t poll_ns=0):
    """Sends every message back until the end of file. `largest` payload in bytes."""
    cdef size_t room = HEADER + largest
    cdef uint8_t *buffer = allocate(room)
    cdef ssize_t size
    try:
        with nogil:
            while True:
                size = receive_message(fd, buffer, room, poll_ns)
                if size < 0:
                    break
                if send_all(fd, buffer, size, poll_ns) < 0:
                    size = FAILED
                    break
        if size != END_OF_FILE:
            check(size)
    finally:
        free(buffer)


def round_trips(int fd, const uint8_t[::1] payload, Py_ssize_t count, int64_t[::1] stamps,
                int64_t poll_ns=0):
    """Sends the payload and receives the answer, `count` times."""
    cdef uint8_t *message = framed(payload)
    cdef size_t size = HEADER + payload.shape[0]
    cdef uint8_t *answer = NULL
    cdef Py_ssize_t index
    cdef ssize_t outcome = 0
    cdef bint stamped = stamps.shape[0] > 0
    if stamped and stamps.shape[0] < count:
        raise ValueError("a stamp for each operation, please")
    try:
        answer = allocate(size)
        with nogil:
            for index in range(count):
                if stamped:
                    stamps[index] = now()
                outcome = send_all(fd, message, size, poll_ns)
                if outcome < 0:
                    break
                outcome = receive_message(fd, answer, size, poll_ns)
                if outcome < 0:
                    break
        check(outcome)
    finally:
        free(answer)
        free(message)


def send_messages(int fd, const uint8_t[::1] payload, Py_ssize_t count, int64_t[::1] stamps,
                  Py_ssize_t batch=64, Py_ssize_t stride=64):
    """Sends the payload `count` times, copied behind its header, `batch` messages a system call.

    `stride` is a multiple of `batch`.
    """
    cdef size_t size = HEADER + payload.shape[0]
    cdef uint8_t *message = framed(payload)
    cdef uint8_t *buffer = NULL
    cdef Py_ssize_t done = 0, index, take
    cdef int outcome = 0
    cdef bint stamped = stamps.shape[0] > 0
    if stamped and stamps.shape[0] * stride < count:
        raise ValueError("a stamp for each stride, please")
    try:
        buffer = allocate(size * batch)
        with nogil:
            while done < count:
                if stamped and done % stride == 0:
                    stamps[done // stride] = now()
                take = min(batch, count - done)
                for index in range(take):
                    memcpy(buffer + <size_t>index * size, message, size)
                outcome = send_all(fd, buffer, <size_t>take * size, 0)
                if outcome < 0:
                    break
                done += take
        check(outcome)
    finally:
        free(buffer)
        free(message)


cdef class Reader:
    """Takes messages of one size off a stream: what has arrived with one call, then from memory.

    While many are still to come, the kernel is asked to wake the reader for `LOW_WATER` bytes and
    not for every packet: waking up is what costs most, and the sender pays for it too.
    """

    cdef uint8_t *buffer
    cdef size_t room, position, end, size
    cdef int fd, low_water

    def __cinit__(self, int fd, size_t payload, size_t room=1 << 20):
        self.fd = fd
        self.size = HEADER + payload
        self.room = max(room, 2 * self.size)
        self.position = self.end = 0
        self.low_water = 1
        self.buffer = allocate(self.room)

    def __dealloc__(self):
        free(self.buffer)

    cdef void wake_for(self, int low_water) noexcept nogil:
        if low_water != self.low_water:
            setsockopt(self.fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water))
            self.low_water = low_water

    cdef ssize_t fill(self, size_t wanted) noexcept nogil:
        """Until `wanted` bytes lie at `position`, in one piece."""
        cdef ssize_t got
        if self.position + wanted > self.room:
            memmove(self.buffer, self.buffer + self.position, self.end - self.position)
            self.end -= self.position
            self.position = 0
        while self.end - self.position < wanted:
            got = receive_some(self.fd, self.buffer + self.end, self.room - self.end, 0)
            if got <= 0:
                return END_OF_FILE if got == 0 else FAILED
            self.end += got
        return 0

    def take(self, Py_ssize_t count, int64_t[::1] stamps, Py_ssize_t stride=64):
        """The next `count` messages."""
        cdef Py_ssize_t index
        cdef ssize_t outcome = 0
        # From here on the rest may be less than LOW_WATER, and would never wake anyone.
        cdef Py_ssize_t last = count - (2 * LOW_WATER) // <Py_ssize_t>self.size - 1
        cdef bint stamped = stamps.shape[0] > 0
        if stamped and stamps.shape[0] * stride < count:
            raise ValueError("a stamp for each stride, please")
        with nogil:
            for index in range(count):
                if stamped and index % stride == 0:
                    stamps[index // stride] = now()
                if self.position == self.end:
                    self.position = self.end = 0
                if self.end - self.position < self.size:
                    self.wake_for(LOW_WATER if index < last else 1)
                    outcome = self.fill(self.size)
                    if outcome < 0:
                        break
                if HEADER + <size_t>load_length(self.buffer + self.position) != self.size:
                    outcome = FAILED
                    break
                self.position += self.size
            self.wake_for(1)
        check(outcome)


def connect_each(int port, const uint8_t[::1] payload, Py_ssize_t count, int64_t[::1] stamps,
                 int64_t poll_ns=0):
    """Opens a socket to 127.0.0.1, makes one round trip and closes it, `count` times.

    Nothing is under way any more when it closes, so it resets the connection. An orderly close
    leaves every port waiting for a second, and after some 14,000 of them the kernel has to search
    for a free one, which takes it 100 times as long as all the rest.
    """
    cdef uint8_t *message = framed(payload)
    cdef size_t size = HEADER + payload.shape[0]
    cdef uint8_t *answer = NULL
    cdef sockaddr_in address
    cdef int fd, on = 1
    cdef linger reset
    cdef Py_ssize_t index
    cdef ssize_t outcome = 0
    cdef bint stamped = stamps.shape[0] > 0
    if stamped and stamps.shape[0] < count:
        raise ValueError("a stamp for each operation, please")
    reset.l_onoff = 1
    reset.l_linger = 0
    memset(&address, 0, sizeof(address))
    address.sin_family = AF_INET
    address.sin_port = htons(port)
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK)
    try:
        answer = allocate(size)
        with nogil:
            for index in range(count):
                if stamped:
                    stamps[index] = now()
                fd = socket(AF_INET, SOCK_STREAM, 0)
                if fd < 0:
                    outcome = FAILED
                    break
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
                outcome = connect(fd, <sockaddr *>&address, sizeof(address))
                if outcome == 0:
                    outcome = send_all(fd, message, size, poll_ns)
                if outcome == 0:
                    outcome = receive_message(fd, answer, size, poll_ns)
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
                close(fd)
                if outcome < 0:
                    break
        check(outcome)
    finally:
        free(answer)
        free(message)


def accept_each(int listener, size_t largest, int64_t poll_ns=0):
    """Serves connections one after the other, each echoed until its end of file. Never returns.

    The listener must not block, so that waiting for the next one can poll as well.
    """
    cdef size_t room = HEADER + largest
    cdef uint8_t *buffer = allocate(room)
    cdef ssize_t size = 0
    cdef int fd
    cdef int64_t deadline
    cdef pollfd waiting
    waiting.fd = listener
    waiting.events = POLLIN
    try:
        with nogil:
            while size >= 0 or size == END_OF_FILE:
                deadline = 0
                while True:
                    fd = accept(listener, NULL, NULL)
                    if fd >= 0 or (errno != EAGAIN and errno != EINTR):
                        break
                    if deadline == 0:
                        deadline = now() + poll_ns
                    elif now() >= deadline:
                        poll(&waiting, 1, -1)
                if fd < 0:
                    size = FAILED
                    break
                while True:
                    size = receive_message(fd, buffer, room, poll_ns)
                    if size < 0 or send_all(fd, buffer, size, poll_ns) < 0:
                        break
                # One connection that was reset is no reason to stop serving.
                size = 0
                close(fd)
        check(size)
    finally:
        free(buffer)
