// Points of the mesh's outline and what the masks say of them: the twin of fusion_server/surface/contour.py, whose
// comments say why. An edge a thread, then a vertex a thread, for every view. Each edge and each vertex of each view has a
// place of its own, so that rows come in one order and nobody has to count them; where none is, the weight is 0.
#include "kernel.h"

constexpr int ROW = 6;  // share, gradient (3), want, weight

struct Rows {  // of all places (V, E + P)
    double *share, *gradient, *want, *weight;
};

DEVICE void put(const Rows& rows, int64_t place, const double* out) {
    rows.share[place] = out[0], rows.want[place] = out[4], rows.weight[place] = out[5];
    for (int k = 0; k < 3; ++k) rows.gradient[3 * place + k] = out[1 + k];
}

struct Map {  // one view's outline
    const float* distance;
    const double *m, *known;
    double focal;
    int64_t height, width;
};

DEVICE double bilinear(const Map& map, double x, double y) {
    int64_t x0 = (int64_t)x, y0 = (int64_t)y;
    if (x0 > map.width - 2) x0 = map.width - 2;
    if (y0 > map.height - 2) y0 = map.height - 2;
    double fx = x - x0, fy = y - y0;
    const float *upper = map.distance + y0 * map.width + x0, *lower = upper + map.width;
    double above = upper[0] + fx * (upper[1] - upper[0]), below = lower[0] + fx * (lower[1] - lower[0]);
    return above + fy * (below - above);
}

// One point against one outline: fills gradient, want and weight; where it is and how far inside.
DEVICE bool row(const Map& map, const double* p, double limit, double scale, double* out, double& x, double& y, double& s) {
    const double* m = map.m;
    double w = m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11];
    if (!(w >= 0.01)) return false;
    x = (m[0] * p[0] + m[1] * p[1] + m[2] * p[2] + m[3]) / w;
    y = (m[4] * p[0] + m[5] * p[1] + m[6] * p[2] + m[7]) / w;
    const double* k = map.known;
    if (!(x >= k[0] + 1.5 && y >= k[1] + 1.5 && x <= k[2] - 1.5 && y <= k[3] - 1.5)) return false;
    s = bilinear(map, x, y);
    if (fabs(s) > limit) return false;
    double gx = 0.5 * (bilinear(map, x + 1.0, y) - bilinear(map, x - 1.0, y));
    double gy = 0.5 * (bilinear(map, x, y + 1.0) - bilinear(map, x, y - 1.0));
    double size = sqrt(gx * gx + gy * gy);
    if (size < 0.3) return false;
    gx /= size, gy /= size;
    double off = s / fmin(fmax(size, 0.7), 1.4), metre = w / map.focal;
    for (int axis = 0; axis < 3; ++axis)
        out[1 + axis] = (gx * (m[axis] - x * m[8 + axis]) + gy * (m[4 + axis] - y * m[8 + axis])) / map.focal;
    out[4] = -off * metre;
    out[5] = 1.0 / (1.0 + (off * metre / scale) * (off * metre / scale));
    s = off;
    return true;
}

DEVICE double depth_at(const float* depth, int64_t height, int64_t width, double x, double y) {
    double column = rint(x), line = rint(y);
    if (!(column >= 0 && column < width && line >= 0 && line < height)) return 0.0;
    return depth[(int64_t)line * width + (int64_t)column];
}

// share, gradient, want, weight: of places (V, E + P), a view's edges and then its vertices. off: as many, of which the
// first `count` are what rows want, without sign and in no order.
extern "C" int contours(
    const double* x, const double* normals, const int32_t* edges, const int32_t* start, const int32_t* link,
    const float* depth, const double* matrix, const double* rotation, const double* center, const double* focal,
    const float* distance, const double* known, const int8_t* blind, int64_t views, int64_t height, int64_t width,
    int64_t edge_count, int64_t vertex_count, double gate, double scale, double outward, double inward, double round,
    double hidden, double outside, double astray, double power, double* share_out, double* gradient_out,
    double* want_out, double* weight_out, double* off, int32_t* count, void* stream
) {
    int64_t pixels = height * width, places = edge_count + vertex_count;
    Rows rows = {share_out, gradient_out, want_out, weight_out};
    int failed = launch(1, stream, EACH (int64_t) { *count = 0; });
    if (failed) return failed;
    failed = launch(views * edge_count, stream, EACH (int64_t at) {
        int64_t v = at / edge_count, e = at % edge_count, i = edges[2 * e], j = edges[2 * e + 1], place = v * places + e;
        rows.weight[place] = 0.0;
        if (blind[v]) return;
        const double *c = center + 3 * v, *a = x + 3 * i, *b = x + 3 * j, *na = normals + 3 * i, *nb = normals + 3 * j;
        double first = na[0] * (c[0] - a[0]) + na[1] * (c[1] - a[1]) + na[2] * (c[2] - a[2]);
        double second = nb[0] * (c[0] - b[0]) + nb[1] * (c[1] - b[1]) + nb[2] * (c[2] - b[2]);
        if ((first > 0.0) == (second > 0.0)) return;
        double share = first / (first - second), p[3], out[ROW], px, py, s;
        double n[3], bulge = 0.0;
        for (int axis = 0; axis < 3; ++axis) {
            p[axis] = a[axis] + share * (b[axis] - a[axis]);
            n[axis] = na[axis] + share * (nb[axis] - na[axis]);
            bulge += (b[axis] - a[axis]) * (nb[axis] - na[axis]);
        }
        bulge *= 0.5 * share * (1.0 - share);
        for (int axis = 0; axis < 3; ++axis) p[axis] += bulge * n[axis];
        Map map = {distance + v * pixels, matrix + 12 * v, known + 4 * v, focal[v], height, width};
        if (!row(map, p, gate, scale, out, px, py, s)) return;
        const double* r = rotation + 9 * v;
        double ox = r[0] * n[0] + r[1] * n[1] + r[2] * n[2], oy = r[3] * n[0] + r[4] * n[1] + r[5] * n[2];
        double size = fmax(sqrt(ox * ox + oy * oy), 1e-9);
        ox /= size, oy /= size;
        const float* shown = depth + v * pixels;
        if (depth_at(shown, height, width, px + outward * ox, py + outward * oy) > 0.0) return;
        double before = depth_at(shown, height, width, px - inward * ox, py - inward * oy);
        double bend = sqrt(round * inward * before / focal[v]);
        const double* m = map.m;
        if (before > 0.0 && m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11] > before + hidden * bend) return;
        const double* g = out + 1;
        double sizes = (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) * (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]);
        double parallel = -(n[0] * g[0] + n[1] * g[1] + n[2] * g[2]) / sqrt(sizes);
        if (!(parallel >= astray)) return;
        out[0] = share, out[5] *= pow(parallel, power);
        put(rows, place, out);
        off[atomic_next(count)] = fabs(out[4]);
    });
    if (failed) return failed;
    return launch(views * vertex_count, stream, EACH (int64_t at) {
        int64_t v = at / vertex_count, i = at % vertex_count, place = v * places + edge_count + i;
        rows.weight[place] = 0.0;
        if (blind[v]) return;
        const double *m = matrix + 12 * v, *p = x + 3 * i;
        double w = m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11];
        if (!(w >= 0.01)) return;
        // A cheap look at the nearest pixel; nearly all vertices are inside and need no more.
        double column = trunc((m[0] * p[0] + m[1] * p[1] + m[2] * p[2] + m[3]) / w + 0.5);
        double line = trunc((m[4] * p[0] + m[5] * p[1] + m[6] * p[2] + m[7]) / w + 0.5);
        if (!(column >= 0 && line >= 0 && column < width && line < height)) return;
        if (!(distance[v * pixels + (int64_t)line * width + (int64_t)column] < 1.0 - outside)) return;
        double out[ROW], px, py, s;
        Map map = {distance + v * pixels, m, known + 4 * v, focal[v], height, width};
        if (!row(map, p, 2.0 * gate, scale, out, px, py, s) || s > -outside) return;
        out[0] = edges[2 * (int64_t)link[start[i]]] == i ? 0.0 : 1.0;
        out[5] *= 0.25;
        put(rows, place, out);
        off[atomic_next(count)] = fabs(out[4]);
    });
}
