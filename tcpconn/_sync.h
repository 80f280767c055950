/* What the core needs from the platform and C does not have portably: a mutex, atomic counters,
   a monotonic clock. Waiting threads are parked on CPython's own thread locks (see _engine.pyx),
   which signals can interrupt. */
#ifndef TCPCONN_SYNC_H
#define TCPCONN_SYNC_H

#include <stdint.h>

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <intrin.h>

typedef SRWLOCK tc_mutex;

static __inline void tc_mutex_init(tc_mutex *m) { InitializeSRWLock(m); }
static __inline void tc_mutex_destroy(tc_mutex *m) { (void)m; }
static __inline void tc_mutex_lock(tc_mutex *m) { AcquireSRWLockExclusive(m); }
static __inline void tc_mutex_unlock(tc_mutex *m) { ReleaseSRWLockExclusive(m); }

static __inline int32_t tc_atomic_add(volatile int32_t *p, int32_t n) {
    return (int32_t)_InterlockedExchangeAdd((volatile long *)p, n) + n;
}
static __inline int32_t tc_atomic_get(volatile int32_t *p) {
    return (int32_t)_InterlockedExchangeAdd((volatile long *)p, 0);
}

static __inline uint64_t tc_now(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    uint64_t seconds = (uint64_t)count.QuadPart / (uint64_t)frequency.QuadPart;
    uint64_t rest = (uint64_t)count.QuadPart % (uint64_t)frequency.QuadPart;
    return seconds * 1000000000ull + rest * 1000000000ull / (uint64_t)frequency.QuadPart;
}

#else

#include <pthread.h>
#include <time.h>

typedef pthread_mutex_t tc_mutex;

static inline void tc_mutex_init(tc_mutex *m) {
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    /* Critical sections here last well under a microsecond: spinning briefly beats sleeping. */
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(m, &attributes);
    pthread_mutexattr_destroy(&attributes);
#else
    pthread_mutex_init(m, 0);
#endif
}
static inline void tc_mutex_destroy(tc_mutex *m) { pthread_mutex_destroy(m); }
static inline void tc_mutex_lock(tc_mutex *m) { pthread_mutex_lock(m); }
static inline void tc_mutex_unlock(tc_mutex *m) { pthread_mutex_unlock(m); }

static inline int32_t tc_atomic_add(volatile int32_t *p, int32_t n) {
    return __atomic_add_fetch(p, n, __ATOMIC_ACQ_REL);
}
static inline int32_t tc_atomic_get(volatile int32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint64_t tc_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#endif

/* A descriptor that an event loop waits for: an eventfd, or a pipe that does not block. */
#ifdef _WIN32

static __inline void tc_poke(int descriptor) { (void)descriptor; }
static __inline void tc_take_pokes(int descriptor) { (void)descriptor; }

#else

#include <errno.h>
#include <unistd.h>

static inline void tc_poke(int descriptor) {
    uint64_t one = 1;
    while (write(descriptor, &one, sizeof one) < 0 && errno == EINTR) { }
}
static inline void tc_take_pokes(int descriptor) {
    uint64_t taken[64];
    while (read(descriptor, taken, sizeof taken) < 0 && errno == EINTR) { }
}

#endif
#endif
