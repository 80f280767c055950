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

#include <time.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#ifdef SYS_futex

#include <errno.h>
#include <linux/futex.h>
#include <unistd.h>

/* What the C library's mutex does, but inline: a message takes several, hardly ever contended, and
   a call through the library's checks of kind and owner costs three times the atomic operation. */
typedef struct {
    int32_t state; /* 0: free; 1: taken; 2: taken, and somebody may sleep for it */
} tc_mutex;

/* Critical sections last well under a microsecond: spinning briefly beats sleeping. */
#define TC_MUTEX_SPINS 100

static inline void tc_mutex_init(tc_mutex *m) { m->state = 0; }
static inline void tc_mutex_destroy(tc_mutex *m) { (void)m; }

static inline int tc_mutex_try(tc_mutex *m) {
    int32_t free = 0;
    return __atomic_compare_exchange_n(&m->state, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void tc_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static __attribute__((noinline, cold, unused)) void tc_mutex_wait(tc_mutex *m) {
    int saved = errno;
    int spins;
    for (spins = 0; spins < TC_MUTEX_SPINS; spins++) {
        tc_relax();
        if (__atomic_load_n(&m->state, __ATOMIC_RELAXED) == 0 && tc_mutex_try(m)) return;
    }
    while (__atomic_exchange_n(&m->state, 2, __ATOMIC_ACQUIRE) != 0)
        syscall(SYS_futex, &m->state, FUTEX_WAIT_PRIVATE, 2, 0, 0, 0);
    errno = saved;
}

static __attribute__((noinline, cold, unused)) void tc_mutex_wake(tc_mutex *m) {
    int saved = errno;
    syscall(SYS_futex, &m->state, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    errno = saved;
}

static inline void tc_mutex_lock(tc_mutex *m) {
    if (!tc_mutex_try(m)) tc_mutex_wait(m);
}
static inline void tc_mutex_unlock(tc_mutex *m) {
    if (__atomic_exchange_n(&m->state, 0, __ATOMIC_RELEASE) == 2) tc_mutex_wake(m);
}

#else

#include <pthread.h>

typedef pthread_mutex_t tc_mutex;

static inline void tc_mutex_init(tc_mutex *m) { pthread_mutex_init(m, 0); }
static inline void tc_mutex_destroy(tc_mutex *m) { pthread_mutex_destroy(m); }
static inline void tc_mutex_lock(tc_mutex *m) { pthread_mutex_lock(m); }
static inline void tc_mutex_unlock(tc_mutex *m) { pthread_mutex_unlock(m); }

#endif

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
