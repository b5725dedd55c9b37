// A pose and its moves: the twins of Shape.of, Shape.folded, relaxed and less_folded in fusion_server/surface/solve.py. What
// there is added face by face or edge by edge, here each vertex gathers in the same order, so sums are the same.
#include "kernel.h"

DEVICE void cross_of(const double* x, const int32_t* face, double* n, double& first) {
    const double *a = x + 3 * (int64_t)face[0], *b = x + 3 * (int64_t)face[1], *c = x + 3 * (int64_t)face[2];
    double ux = b[0] - a[0], uy = b[1] - a[1], uz = b[2] - a[2], wx = c[0] - a[0], wy = c[1] - a[1], wz = c[2] - a[2];
    n[0] = uy * wz - uz * wy, n[1] = uz * wx - ux * wz, n[2] = ux * wy - uy * wx;
    first = sqrt(ux * ux + uy * uy + uz * uz);
}

// start, around: faces at each vertex. lengths: (F,) of first edges. edge, area: the mean length, the mean area.
extern "C" int shape(
    const double* x, const int32_t* faces, const int32_t* start, const int32_t* around, int64_t vertex_count,
    int64_t face_count, double* normals, double* face_normals, double* areas, double* lengths, double* edge,
    double* area, void* stream
) {
    int failed = launch(face_count, stream, EACH (int64_t f) {
        double n[3], first;
        cross_of(x, faces + 3 * f, n, first);
        double size = sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), scale = 1.0 / fmax(size, 1e-20);
        areas[f] = 0.5 * size, lengths[f] = first;
        for (int k = 0; k < 3; ++k) face_normals[3 * f + k] = n[k] * scale;
    });
    if (failed) return failed;
    failed = launch(vertex_count, stream, EACH (int64_t i) {
        double sum[3] = {0.0, 0.0, 0.0}, n[3], first;
        for (int64_t m = start[i]; m < start[i + 1]; ++m) {
            cross_of(x, faces + 3 * (int64_t)around[m], n, first);
            for (int k = 0; k < 3; ++k) sum[k] += n[k];
        }
        double size = fmax(sqrt(sum[0] * sum[0] + sum[1] * sum[1] + sum[2] * sum[2]), 1e-20);
        for (int k = 0; k < 3; ++k) normals[3 * i + k] = sum[k] / size;
    });
    if (failed) return failed;
    return launch_blocks(2, stream, EACH_BLOCK (int64_t block, double* shared) {
        const double* from = block ? areas : lengths;
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t f = t; f < face_count; f += THREADS) shared[t] += from[f];
        }
        double mean = block_sum(shared) / (face_count > 0 ? face_count : 1);
        PHASE (t) { if (t == 0) *(block ? area : edge) = mean; }
    });
}

// Moved along the normals by at most `longest`, metres.
extern "C" int displaced(
    const double* x, const double* normals, const double* by, double longest, int64_t vertex_count, double* out,
    void* stream
) {
    return launch(vertex_count, stream, EACH (int64_t i) {
        double step = fmin(fmax(by[i], -longest), longest);
        for (int k = 0; k < 3; ++k) out[3 * i + k] = x[3 * i + k] + step * normals[3 * i + k];
    });
}

extern "C" int relaxed(
    const double* x, const double* v, const int32_t* start, const int32_t* neighbour, const double* layout, double share,
    int64_t vertex_count, double* out, void* stream
) {
    return launch(vertex_count, stream, EACH (int64_t i) {
        const double *own = x + 3 * i, *normal = v + 3 * i;
        double m[3] = {-own[0], -own[1], -own[2]};
        for (int64_t n = start[i]; n < start[i + 1]; ++n)
            for (int k = 0; k < 3; ++k) m[k] += layout[n] * x[3 * (int64_t)neighbour[n] + k];
        double along = m[0] * normal[0] + m[1] * normal[1] + m[2] * normal[2];
        for (int k = 0; k < 3; ++k) out[3 * i + k] = own[k] + share * (m[k] - along * normal[k]);
    });
}

// folded: (F,). count: how many.
extern "C" int folds(
    const double* normals, const int32_t* faces, const double* face_normals, double cosine,
    int64_t face_count, int8_t* folded, int64_t* count, void* stream
) {
    int failed = launch(1, stream, EACH (int64_t) { *count = 0; });
    if (failed) return failed;
    return launch(face_count, stream, EACH (int64_t f) {
        const int32_t* corner = faces + 3 * f;
        double total = 0.0;
        for (int k = 0; k < 3; ++k)
            total += (normals[3 * (int64_t)corner[0] + k] + normals[3 * (int64_t)corner[1] + k]
                      + normals[3 * (int64_t)corner[2] + k]) * face_normals[3 * f + k];
        folded[f] = total < 3.0 * cosine;
        if (folded[f]) atomic_add(count, 1);
    });
}

// One round of unfolding: vertices at or beside a folded face go half of the way to their neighbours' mean.
extern "C" int unfold(
    const double* x, const int8_t* folded, const int32_t* start, const int32_t* neighbour, const int32_t* around_start,
    const int32_t* around, int64_t vertex_count, int8_t* marked, double* out, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        int8_t found = 0;
        for (int64_t m = around_start[i]; m < around_start[i + 1]; ++m) found |= folded[around[m]];
        marked[i] = found;
    });
    if (failed) return failed;
    return launch(vertex_count, stream, EACH (int64_t i) {
        int8_t near = marked[i];
        for (int64_t n = start[i]; n < start[i + 1]; ++n) near |= marked[neighbour[n]];
        double total[3] = {0.0, 0.0, 0.0};
        for (int64_t n = start[i]; near && n < start[i + 1]; ++n)
            for (int k = 0; k < 3; ++k) total[k] += x[3 * (int64_t)neighbour[n] + k];
        for (int k = 0; k < 3; ++k)
            out[3 * i + k] = near ? 0.5 * x[3 * i + k] + 0.5 * total[k] / (start[i + 1] - start[i]) : x[3 * i + k];
    });
}

extern "C" int copy(const double* from, int64_t count, double* to, void* stream) {
    return launch(count, stream, EACH (int64_t i) { to[i] = from[i]; });
}
