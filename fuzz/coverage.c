/* Edge coverage for code that gcc compiled with -fsanitize-coverage=trace-pc: a map of counters,
   as AFL keeps one. Loaded before the extension modules, asked through ctypes by one thread. */
#include <stdint.h>
#include <string.h>

#define SIZE (1 << 17)

static uint8_t counters[SIZE]; /* of the run that goes on */
static uint8_t seen[SIZE];     /* by edge: a bit for each class of counts that any run had */
static __thread uintptr_t before;
static int counting;

void __sanitizer_cov_trace_pc(void) {
    uintptr_t here, edge;
    if (!counting)
        return;
    here = (uintptr_t)__builtin_return_address(0);
    here = (here >> 4) ^ (here << 8);
    edge = (here ^ before) % SIZE;
    before = here >> 1;
    if (counters[edge] != 255)
        counters[edge]++;
}

/* Few or many times round a loop are different paths, 40 or 41 times are not. */
static uint8_t class_of(uint8_t count) {
    if (count <= 3)
        return (uint8_t)(1u << (count - 1));
    if (count <= 7)
        return 8;
    if (count <= 15)
        return 16;
    if (count <= 31)
        return 32;
    return count <= 127 ? 64 : 128;
}

void coverage_begin(void) {
    memset(counters, 0, SIZE);
    before = 0;
    counting = 1;
}

/* Ends a run: how much of what it did no run did before. */
int coverage_end(void) {
    int found = 0;
    counting = 0;
    for (int word = 0; word < SIZE; word += 8) {
        uint64_t all;
        memcpy(&all, counters + word, 8);
        if (all == 0)
            continue;
        for (int edge = word; edge < word + 8; edge++) {
            if (counters[edge] == 0)
                continue;
            uint8_t class = class_of(counters[edge]);
            if (!(seen[edge] & class)) {
                found += seen[edge] == 0 ? 2 : 1;
                seen[edge] |= class;
            }
        }
    }
    return found;
}

/* The edges of the run that ended last, at most `most` of them; how many there are. */
int coverage_last(int32_t *edges, int most) {
    int count = 0;
    for (int edge = 0; edge < SIZE; edge++)
        if (counters[edge] != 0) {
            if (count < most)
                edges[count] = edge;
            count++;
        }
    return count;
}

/* How many edges any run has taken. */
int coverage_edges(void) {
    int edges = 0;
    for (int edge = 0; edge < SIZE; edge++)
        edges += seen[edge] != 0;
    return edges;
}
