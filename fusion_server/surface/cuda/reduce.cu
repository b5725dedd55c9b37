// Numbers of a whole surface: medians by their bits, eight at a time from the top, and means. Nothing depends on an order.
#include "kernel.h"

// One of values that are not negative: the least one at which the weights (null: 1 each) from the smallest value on add up to
// `need`. In one block; counts of the 256 next bits stand in `shared`. need: of all weights, a function.
template <class Need> DEVICE double ranked(
    const double* values, const int64_t* weights, int64_t count, double* shared, Need need
) {
    int64_t* bins = (int64_t*)shared;
    uint64_t prefix = 0;
    int64_t wanted = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        PHASE (t) { bins[t] = 0; }
        BARRIER;
        PHASE (t) {
            for (int64_t k = t; k < count; k += THREADS) {
                uint64_t bits = (uint64_t)bits_of(values[k]);
                if (bits >> 63 || (shift < 56 && bits >> (shift + 8) != prefix)) continue;
                atomic_add(bins + (bits >> shift & 255), weights ? weights[k] : 1);
            }
        }
        BARRIER;
        if (shift == 56) {
            int64_t all = 0;
            for (int b = 0; b < THREADS; ++b) all += bins[b];
            if (all == 0) return NAN;
            wanted = need(all);
        }
        int bin = 0;
        for (; bin < THREADS - 1 && bins[bin] < wanted; ++bin) wanted -= bins[bin];
        prefix = prefix << 8 | (uint64_t)bin;
        BARRIER;
    }
    return double_of((int64_t)prefix);
}

// Of `count` values (or as many as `found` says, where it is not null), those that are not negative: the two middle ones,
// the same twice where their number is odd; NaN where there is none.
extern "C" int middle_two(const double* values, int64_t count, const int32_t* found, double* out, void* stream) {
    return launch_blocks(2, stream, EACH_BLOCK (int64_t block, double* shared) {
        int64_t held = found ? *found : count;
        double value = ranked(values, nullptr, held, shared, [=](int64_t all) { return (all - 1 + block) / 2 + 1; });
        PHASE (t) { if (t == 0) out[block] = value; }
    });
}

// The weighted median: the least value whose weight and that of smaller ones is at least half of all; NaN if there is none.
extern "C" int weighted_middle(const double* values, const int64_t* weights, int64_t count, double* out, void* stream) {
    return launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        double value = ranked(values, weights, count, shared, [=](int64_t all) { return (all + 1) / 2; });
        PHASE (t) { if (t == 0) *out = value; }
    });
}

// The value below which a share of the values lies, none of them negative; between two of them as numpy's quantile.
// near: (2,), room for these two.
extern "C" int quantile(const double* values, int64_t count, double share, double* near, double* out, void* stream) {
    double at = share * (double)(count - 1);
    int64_t low = (int64_t)at, high = low + 1 < count ? low + 1 : low;
    int failed = launch_blocks(2, stream, EACH_BLOCK (int64_t block, double* shared) {
        double value = ranked(values, nullptr, count, shared, [=](int64_t) { return (block ? high : low) + 1; });
        PHASE (t) { if (t == 0) near[block] = value; }
    });
    if (failed) return failed;
    return launch(1, stream, EACH (int64_t) { *out = near[0] + (near[1] - near[0]) * (at - (double)low); });
}

// Means of the columns of (count, columns).
extern "C" int means(const double* values, int64_t count, int64_t columns, double* out, void* stream) {
    return launch_blocks(columns, stream, EACH_BLOCK (int64_t column, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t k = t; k < count; k += THREADS) shared[t] += values[k * columns + column];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) out[column] = sum / count; }
    });
}
