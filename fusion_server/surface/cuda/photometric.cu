// Where along its normal a vertex looks the same from several cameras: the twin of fusion_server/surface/photometric.py,
// whose docstrings say what is computed. A face a thread chooses its views; a face and a height a thread reads the
// pictures; a vertex and a height a thread correlates and averages; a vertex a thread looks for the peak.
#include "view.h"

constexpr int SLOTS = 4, VIEWS = 3, PAIRS = SLOTS * (SLOTS - 1) / 2, SUMS = 2 * SLOTS + PAIRS;
constexpr int PLACE = 12;  // numbers a slot: corners (3, 2) in the picture, and their rises (3, 2)

DEVICE int pair_of(int s, int t) {  // number of a pair of slots, whichever comes first
    int low = s < t ? s : t, high = s < t ? t : s;
    return low * (2 * SLOTS - low - 1) / 2 + high - low - 1;
}

// Insert a view into a short list that is sorted by cosine; the last one falls out.
DEVICE void rank(double* facing, int8_t* best, int size, double cosine, int view) {
    int at = size - 1;
    for (; at > 0 && cosine > facing[at - 1]; --at) facing[at] = facing[at - 1], best[at] = best[at - 1];
    facing[at] = cosine, best[at] = (int8_t)view;
}

constexpr int STEP = 1, REACH = 2, SLACK = 3, APART = 4, COUNT = 5;  // of a search, as in observe.cu

// slot_view: (F, SLOTS), -1 free, -2 taken by a view whose picture does not hold all of the search.
extern "C" int choose_views(
    const double* vertices, const double* normals, const int32_t* faces, const double* face_normals,
    const double* matrix, const double* center, const double* map_matrix, const float* depth, int64_t face_count,
    int64_t views, int64_t rows, int64_t columns, int64_t map_rows, int64_t map_columns, const double* search,
    double least_facing, int8_t* slot_view, double* places, void* stream
) {
    return launch(face_count, stream, EACH (int64_t f) {
        const int32_t* corner = faces + 3 * f;
        const double *a = vertices + 3 * (int64_t)corner[0], *b = vertices + 3 * (int64_t)corner[1], *c = vertices + 3 * (int64_t)corner[2];
        double x = (a[0] + b[0] + c[0]) / 3.0, y = (a[1] + b[1] + c[1]) / 3.0, z = (a[2] + b[2] + c[2]) / 3.0;
        double facing[SLOTS];
        int8_t best[SLOTS];
        for (int s = 0; s < SLOTS; ++s) facing[s] = least_facing, best[s] = -1;
        for (int64_t v = 0; v < views; ++v) {
            double cosine = facing_of(face_normals + 3 * f, center + 3 * v, x, y, z);
            if (cosine > facing[SLOTS - 1]
                && sees(map_matrix + 12 * v, depth + v * map_rows * map_columns, map_rows, map_columns, x, y, z, search[SLACK]))
                rank(facing, best, SLOTS, cosine, (int)v);
        }
        for (int s = 0; s < SLOTS; ++s) {
            int8_t v = best[s];
            if (v >= 0) {
                const double* m = matrix + 12 * v;
                double over = 1.0 / (m[8] * x + m[9] * y + m[10] * z + m[11]);
                double* place = places + (f * SLOTS + s) * PLACE;
                for (int axis = 0; axis < 2; ++axis) {
                    const double *r = m + 4 * axis, *d = m + 8;
                    double at = (r[0] * x + r[1] * y + r[2] * z + r[3]) * over;
                    double g0 = (r[0] - at * d[0]) * over, g1 = (r[1] - at * d[1]) * over, g2 = (r[2] - at * d[2]) * over;
                    for (int k = 0; k < 3; ++k) {
                        const double *p = vertices + 3 * (int64_t)corner[k], *n = normals + 3 * (int64_t)corner[k];
                        double to = at + g0 * (p[0] - x) + g1 * (p[1] - y) + g2 * (p[2] - z);
                        double by = search[REACH] * (g0 * n[0] + g1 * n[1] + g2 * n[2]);
                        place[2 * k + axis] = to, place[6 + 2 * k + axis] = by;
                        if (!(fabs(by) <= to && to < (axis ? rows : columns) - 1.001 - fabs(by))) best[s] = -2;
                    }
                }
            }
            slot_view[f * SLOTS + s] = best[s];
        }
    });
}

// sums: (F, SUMS, heights): of each slot the sum of grey levels and of their squares, of each pair that of products.
extern "C" int sample(
    const float* grey, const int8_t* slot_view, const double* places, const double* samples, const double* search,
    int64_t face_count, int64_t heights, int64_t rows, int64_t columns, double middle_grey, float* sums, void* stream
) {
    return launch(face_count * heights, stream, EACH (int64_t i) {
        int64_t f = i / heights, h = i % heights;
        float total[SUMS];
        for (int k = 0; k < SUMS; ++k) total[k] = 0.0f;
        for (int64_t k = 0; k < (int64_t)search[COUNT]; ++k) {
            double wa = samples[2 * k], wb = samples[2 * k + 1], wc = 1.0 - wa - wb;
            float level[SLOTS];
            for (int s = 0; s < SLOTS; ++s) {
                int v = slot_view[f * SLOTS + s];
                if (v < 0) continue;
                const double* at = places + (f * SLOTS + s) * PLACE;
                double dx = wa * at[6] + wb * at[8] + wc * at[10], dy = wa * at[7] + wb * at[9] + wc * at[11];
                float x0 = (float)(wa * at[0] + wb * at[2] + wc * at[4] - dx);
                float y0 = (float)(wa * at[1] + wb * at[3] + wc * at[5] - dy);
                float px = x0 + (float)h * (float)(2.0 * dx / (heights - 1));
                float py = y0 + (float)h * (float)(2.0 * dy / (heights - 1));
                int64_t jx = (int64_t)px, jy = (int64_t)py;
                float fx = px - (float)jx, fy = py - (float)jy;
                const float *upper = grey + (v * rows + jy) * columns + jx, *lower = upper + columns;
                float above = upper[0] + fx * (upper[1] - upper[0]), below = lower[0] + fx * (lower[1] - lower[0]);
                level[s] = above + fy * (below - above) - (float)middle_grey;
                total[s] += level[s];
                total[SLOTS + s] += level[s] * level[s];
                for (int t = 0; t < s; ++t)
                    if (slot_view[f * SLOTS + t] >= 0) total[2 * SLOTS + pair_of(s, t)] += level[s] * level[t];
            }
        }
        for (int k = 0; k < SUMS; ++k) sums[(f * SUMS + k) * heights + h] = total[k];
    });
}

// best: (P, VIEWS). flatness: (P, heights), the least variance of grey levels in a patch. curves: (P, heights).
extern "C" int correlate(
    const double* vertices, const double* normals, const double* center, const int8_t* slot_view, const float* sums,
    const int32_t* start, const int32_t* face, const int32_t* wide_start, const int32_t* wide_face,
    int64_t vertex_count, int64_t views, int64_t heights, const double* search, double least_facing, double flat,
    int8_t* best, float* flatness, float* curves, float* contrast, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        double facing[VIEWS];
        int8_t found[VIEWS];
        for (int s = 0; s < VIEWS; ++s) facing[s] = least_facing, found[s] = -1;
        for (int64_t v = 0; v < views; ++v) {
            double cosine = facing_of(normals + 3 * i, center + 3 * v, vertices[3 * i], vertices[3 * i + 1], vertices[3 * i + 2]);
            if (!(cosine > facing[VIEWS - 1])) continue;
            int seen = 0;
            for (int64_t n = start[i]; n < start[i + 1]; ++n)
                for (int s = 0; s < SLOTS; ++s) seen += slot_view[(int64_t)face[n] * SLOTS + s] == v;
            if (4 * seen >= 3 * (start[i + 1] - start[i])) rank(facing, found, VIEWS, cosine, (int)v);
        }
        for (int s = 0; s < VIEWS; ++s) best[VIEWS * i + s] = found[s];
    });
    if (failed) return failed;
    failed = launch(vertex_count * heights, stream, EACH (int64_t at) {
        int64_t i = at / heights, h = at % heights;
        curves[at] = 0.0f;
        flatness[at] = -1.0f;
        const int8_t* own = best + VIEWS * i;
        int count = (own[0] >= 0) + (own[1] >= 0) + (own[2] >= 0), used = 0;
        if (count < 2) return;
        int pairs = count == 3 ? 3 : 1;
        float total[VIEWS] = {0, 0, 0}, square[VIEWS] = {0, 0, 0}, cross[VIEWS] = {0, 0, 0};
        for (int64_t n = wide_start[i]; n < wide_start[i + 1]; ++n) {
            int64_t f = wide_face[n];
            int slot[VIEWS] = {0, 0, 0}, common = 0;
            for (int b = 0; b < count; ++b)
                for (int s = 0; s < SLOTS; ++s)
                    if (slot_view[f * SLOTS + s] == own[b]) slot[b] = s, ++common;
            if (common < count) continue;
            ++used;
            const float* sum = sums + f * SUMS * heights + h;
            for (int b = 0; b < count; ++b) {
                total[b] += sum[slot[b] * heights];
                square[b] += sum[(SLOTS + slot[b]) * heights];
            }
            for (int b = 0; b < pairs; ++b)
                cross[b] += sum[(2 * SLOTS + pair_of(slot[b], slot[(b + 1) % 3])) * heights];
        }
        if (used < 6) return;
        float over = 1.0f / (float)(used * (int64_t)search[COUNT]), least = 1e9f, mean = 0.0f;
        for (int b = 0; b < count; ++b) {
            total[b] *= over;
            square[b] = fmaxf(square[b] * over - total[b] * total[b], 1e-6f);
            least = fminf(least, square[b]);
        }
        for (int b = 0; b < pairs; ++b) {
            int d = (b + 1) % 3;
            mean += (cross[b] * over - total[b] * total[d]) / sqrtf(square[b] * square[d]);
        }
        curves[at] = mean / (float)pairs;
        flatness[at] = least;
    });
    if (failed) return failed;
    return launch(vertex_count, stream, EACH (int64_t i) {
        float least = 1e9f;
        for (int64_t h = 0; h < heights; ++h) least = fminf(least, flatness[i * heights + h]);
        contrast[i] = least > flat * flat ? least : 0.0f;
    });
}

// Curves averaged over each vertex and its neighbours, weighted by contrast.
extern "C" int average(
    const float* curves, const float* contrast, const int32_t* start, const int32_t* neighbour, int64_t vertex_count,
    int64_t heights, float* out, float* weight, void* stream
) {
    return launch(vertex_count * heights, stream, EACH (int64_t at) {
        int64_t i = at / heights, h = at % heights;
        float total = fminf(contrast[i], 100.0f), sum = total * curves[at];
        for (int64_t n = start[i]; n < start[i + 1]; ++n) {
            int64_t j = neighbour[n];
            float w = fminf(contrast[j], 100.0f);
            total += w;
            sum += w * curves[j * heights + h];
        }
        out[at] = total > 0.0f ? sum / total : sum;
        if (h == 0) weight[i] = total / (float)(start[i + 1] - start[i] + 1);
    });
}

extern "C" int peaks(
    const float* curves, const float* contrast, int64_t vertex_count, int64_t heights, const double* search,
    double least_height, double above, double sharpness, double* want, double* variance, void* stream
) {
    return launch(vertex_count, stream, EACH (int64_t i) {
        double step = search[STEP];
        want[i] = 0.0;
        variance[i] = INFINITY;
        if (!(contrast[i] > 0.0f)) return;
        const float* c = curves + i * heights;
        int64_t top = 0;
        for (int64_t h = 1; h < heights; ++h)
            if (c[h] > c[top]) top = h;
        if (top == 0 || top == heights - 1 || c[top] < least_height) return;
        float rival = -1.0f;
        for (int64_t h = 1; h < heights - 1; ++h)
            if (llabs(h - top) * step >= search[APART] && c[h] >= c[h - 1] && c[h] >= c[h + 1]) rival = fmaxf(rival, c[h]);
        double bend = 2.0 * c[top] - c[top - 1] - c[top + 1];
        if (c[top] - rival < above || bend < 1e-6) return;
        double shift = 0.5 * ((double)c[top + 1] - c[top - 1]) / bend;
        want[i] = (top - heights / 2 + fmin(fmax(shift, -0.5), 0.5)) * step;
        variance[i] = sharpness * sharpness * (1.02 - fmin((double)c[top], 1.0)) / bend * step * step;
    });
}
