"""The link through TLS, over another link, and the poller for such links."""

from libc.stdint cimport uint8_t

from tcpconn._link cimport Link, Poller
from tcpconn._sync cimport Span, tc_mutex


cdef class TlsLink(Link):
    cdef readonly Link under    # the socket's
    cdef bint closing           # `shut` was called
    # Guarded by `order`:
    cdef tc_mutex order         # of ciphertext on the socket; before `state` in the lock order
    cdef bytes unsent           # ciphertext on its way to the socket, from `sent` on
    cdef const uint8_t* unsent_data
    cdef size_t unsent_size
    cdef size_t sent
    cdef size_t committed       # plaintext that is encrypted and not reported as written
    cdef bint leftover          # the socket has not taken all there is
    # Guarded by `state`:
    cdef tc_mutex state         # of the SSL object and its buffers; then the GIL
    cdef object tls             # the SSL object's compiled half
    cdef object tls_read
    cdef object tls_write
    cdef object incoming        # ciphertext from the socket
    cdef object outgoing        # ciphertext to be sent
    cdef bint failed
    cdef bint ended             # there will be no more to read
    cdef bint may_renegotiate
    cdef bint renegotiates      # writing waits for something to be read
    cdef bint answers           # reading has made something to be sent
    # The reader's own:
    cdef uint8_t* received      # what one read of the socket gave
    cdef size_t partial         # bytes of the last record that came in part
    cdef size_t body            # the length that its header says
    # The writer's own:
    cdef uint8_t* gathered      # a record put together from several spans
    # The poller's own:
    cdef void* ready_next
    cdef void* ready_key
    cdef bint ready_listed
    # The main thread's own:
    cdef bint interrupted       # a signal handler has raised

    cdef Py_ssize_t decrypt(self, Span* spans, int count, size_t skip) noexcept nogil
    cdef Py_ssize_t decrypt_all(self, Span* spans, int count, size_t skip) except -2
    cdef Py_ssize_t take(self, uint8_t* to, Py_ssize_t room) except -2
    cdef Py_ssize_t take_on_main_thread(self, uint8_t* to, Py_ssize_t room) except -2
    cdef bint is_agreed(self) except -1
    cdef int absorb(self, size_t size) noexcept nogil
    cdef void follow(self, const uint8_t* data, size_t size) noexcept nogil
    cdef Py_ssize_t encrypt(
        self, Span* spans, int count, size_t skip, size_t most
    ) noexcept nogil
    cdef Py_ssize_t encrypt_all(self, Span* spans, int count, size_t skip, size_t most) except -2
    cdef Py_ssize_t put(self, const uint8_t* data, Py_ssize_t length) except -2
    cdef int flush(self) noexcept nogil
    cdef int flush_ordered(self) noexcept nogil
    cdef bint fetch(self) noexcept nogil
    cdef int take_ciphertext(self) except -1
    cdef int events_under(self, int events) noexcept nogil
    cdef void take_leave(self) noexcept nogil
    cdef int defer(self, object error) except -1
    cdef void fail(self, object error) noexcept


cdef class TlsPoller(Poller):
    cdef Poller under
    cdef void* ready_first      # links that have something to read, whatever their sockets have
