/* Which code an input has reached: what gcc's -fsanitize-coverage=trace-pc calls in every basic block.
 * Preloaded, so that every compiled module finds it. */
#include <stdint.h>
#include <string.h>

#define PLACES 16384

static uint8_t hits[PLACES], seen[PLACES];
static uintptr_t before;

void __sanitizer_cov_trace_pc(void)
{
    /* relative to this library: where the system puts libraries changes, how far apart they are does not */
    uintptr_t here = (uintptr_t)__builtin_return_address(0) - (uintptr_t)hits;
    uintptr_t place = (here ^ here >> 14 ^ before) % PLACES;
    if (hits[place] < 255)
        hits[place]++;
    before = here << 1;
}

static uint8_t class_of(uint8_t count) /* a bit: a loop that ran much more often is something new */
{
    return count > 127 ? 128 : count > 31 ? 64 : count > 15 ? 32 : count > 7 ? 16 : count > 3 ? 8 : count > 2 ? 4 : count;
}

/* How many places were reached for the first time, or more often than ever, since the last call. */
int coverage_new(void)
{
    int found = 0;
    for (size_t i = 0; i < PLACES; i += sizeof(uint64_t)) {
        uint64_t some;
        memcpy(&some, hits + i, sizeof some);
        if (!some)
            continue;
        for (size_t j = i; j < i + sizeof some; j++) {
            uint8_t class = class_of(hits[j]);
            found += (class & ~seen[j]) != 0;
            seen[j] |= class;
        }
    }
    memset(hits, 0, sizeof hits);
    before = 0;
    return found;
}
