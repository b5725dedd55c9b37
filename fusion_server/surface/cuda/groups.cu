// Groups of vertices that move alike: the twin of fusion_server/surface/groups.py. The system is small enough for one
// block, so its conjugate gradients are one launch.
#include "kernel.h"

// Of a symmetric 3 x 3, given and taken by its upper rows (6,).
DEVICE void inverse3(const double* a, double* out) {
    double c00 = a[3] * a[5] - a[4] * a[4], c01 = a[2] * a[4] - a[1] * a[5], c02 = a[1] * a[4] - a[2] * a[3];
    double over = 1.0 / (a[0] * c00 + a[1] * c01 + a[2] * c02);
    out[0] = c00 * over, out[1] = c01 * over, out[2] = c02 * over;
    out[3] = (a[0] * a[5] - a[2] * a[2]) * over, out[4] = (a[1] * a[2] - a[0] * a[4]) * over;
    out[5] = (a[0] * a[3] - a[1] * a[1]) * over;
}

DEVICE double times3(const double* a, const double* x, int k) {  // row k of that, times x
    constexpr int AT[9] = {0, 1, 2, 1, 3, 4, 2, 4, 5};
    return a[AT[3 * k]] * x[0] + a[AT[3 * k + 1]] * x[1] + a[AT[3 * k + 2]] * x[2];
}

// motions: (G, 3). ways: (G,), their lengths. system (G, 6), right (G, 3): of each group alone. alike: weight of an edge
// between two groups. held: keeps what nobody knows of from making the system singular. All else is room.
extern "C" int group_motions(
    const double* system, const double* right, const int32_t* start, const int32_t* neighbour, const double* links,
    double alike, double held, int64_t groups, int64_t steps, double* diagonal, double* inverse, double* r, double* z,
    double* p, double* q, double* motions, double* ways, void* stream
) {
    int failed = launch(groups, stream, EACH (int64_t g) {
        double *own = diagonal + 6 * g, all = held;
        for (int64_t n = start[g]; n < start[g + 1]; ++n) all += links[n] * alike;
        for (int k = 0; k < 6; ++k) own[k] = system[6 * g + k] + (k == 0 || k == 3 || k == 5 ? all : 0.0);
        inverse3(own, inverse + 6 * g);
    });
    if (failed) return failed;
    return launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        PHASE (t) {
            for (int64_t i = t; i < 3 * groups; i += THREADS) motions[i] = p[i] = 0.0, r[i] = right[i];
        }
        BARRIER;
        double fall = 0.0, least = 0.0;
        for (int64_t step = 0; step <= steps; ++step) {
            PHASE (t) {
                shared[t] = 0.0;
                for (int64_t i = t; i < 3 * groups; i += THREADS) {
                    z[i] = times3(inverse + 6 * (i / 3), r + i / 3 * 3, (int)(i % 3));
                    shared[t] += z[i] * r[i];
                }
            }
            double following = block_sum(shared);
            if (step == 0) least = 1e-6 * following;
            if (step == steps || following <= least) break;
            double beta = step ? following / fall : 0.0;
            fall = following;
            PHASE (t) {
                for (int64_t i = t; i < 3 * groups; i += THREADS) p[i] = z[i] + beta * p[i];
            }
            BARRIER;
            PHASE (t) {
                shared[t] = 0.0;
                for (int64_t i = t; i < 3 * groups; i += THREADS) {
                    int64_t g = i / 3, k = i % 3;
                    double total = times3(diagonal + 6 * g, p + 3 * g, (int)k);
                    for (int64_t n = start[g]; n < start[g + 1]; ++n)
                        total -= links[n] * alike * p[3 * (int64_t)neighbour[n] + k];
                    q[i] = total;
                    shared[t] += p[i] * total;
                }
            }
            double alpha = fall / block_sum(shared);
            PHASE (t) {
                for (int64_t i = t; i < 3 * groups; i += THREADS) motions[i] += alpha * p[i], r[i] -= alpha * q[i];
            }
            BARRIER;
        }
        PHASE (t) {
            for (int64_t g = t; g < groups; g += THREADS) {
                const double* m = motions + 3 * g;
                ways[g] = sqrt(m[0] * m[0] + m[1] * m[1] + m[2] * m[2]);
            }
        }
    });
}

// Moves vertices with their groups, where `moves`, without steps from one group to the next. one, other: (P, 3), room.
extern "C" int go_along(
    const double* motions, const int32_t* of, const int32_t* start, const int32_t* neighbour, int64_t vertex_count,
    int64_t spreads, const int32_t* moves, double* one, double* other, double* x, void* stream
) {
    int failed = launch(3 * vertex_count, stream, EACH (int64_t i) { one[i] = motions[3 * (int64_t)of[i / 3] + i % 3]; });
    for (int64_t n = 0; n < spreads && !failed; ++n) {
        const double* from = n % 2 ? other : one;
        double* to = n % 2 ? one : other;
        failed = launch(vertex_count, stream, EACH (int64_t i) {
            int64_t count = start[i + 1] - start[i];
            double over = 0.5 / (count > 0 ? count : 1);
            for (int k = 0; k < 3; ++k) {
                double total = 0.0;
                for (int64_t m = start[i]; m < start[i + 1]; ++m) total += from[3 * (int64_t)neighbour[m] + k];
                to[3 * i + k] = 0.5 * from[3 * i + k] + over * total;
            }
        });
    }
    if (failed) return failed;
    const double* by = spreads % 2 ? other : one;
    return launch(3 * vertex_count, stream, EACH (int64_t i) {
        if (*moves) x[i] += by[i];
    });
}
