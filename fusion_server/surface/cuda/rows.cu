// Everything but the rows of fused normals (solve.cu): the twins of photometric.agreed, of what refine.refine and
// refine.contours make of their medians, and of add_contours, add_points, add_membrane and add_bending, gathered.
#include "kernel.h"

// What to trust contours with: weight, 1 / sigma^2. off: (2,), the two middle ones of what rows want, NaN without rows.
// pixel: (2,), of the metres a pixel.
extern "C" int contour_weight(
    const double* off, const double* pixel, double times, double misfit, double pixels, double worst, double* weight,
    void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double best = pixels * times * 0.5 * (pixel[0] + pixel[1]), met = misfit * 0.5 * (off[0] + off[1]);
        double sigma = fmin(fmax(best, met == met ? met : 0.0), worst * best);
        *weight = 1.0 / (sigma * sigma);
    });
}

// points: where pictures found vertices to belong, want (P,) metres along their normals and its variance.
extern "C" int points_of(
    const double* x, const double* normals, const double* want, int64_t vertex_count, double* points, void* stream
) {
    return launch(vertex_count, stream, EACH (int64_t i) {
        for (int k = 0; k < 3; ++k) points[3 * i + k] = x[3 * i + k] + want[i] * normals[3 * i + k];
    });
}

// want and weight (P,) of rows of points, 1/m^2, 0 where nothing is known; pull: over its standard deviation, -1 there.
extern "C" int point_rows(
    const double* x, const double* normals, const double* points, const double* variance, const double* height,
    const int8_t* unseen, const int32_t* start, const int32_t* neighbour, const double* search, double agree, double best,
    double overlap, int64_t vertex_count, double* want, double* weight, double* pull, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        double sum = 0.0;
        for (int k = 0; k < 3; ++k) sum += (points[3 * i + k] - x[3 * i + k]) * normals[3 * i + k];
        want[i] = sum - height[i];
    });
    if (failed) return failed;
    return launch(vertex_count, stream, EACH (int64_t i) {
        weight[i] = 0.0, pull[i] = -1.0;
        if (isinf(variance[i]) || unseen[i]) return;
        double total = 0.0, mean = 0.0, factor = 4.0;
        for (int64_t n = start[i]; n < start[i + 1]; ++n) {
            double own = 1.0 / variance[neighbour[n]];
            total += own, mean += own * want[neighbour[n]];
        }
        if (total > 0.0) {
            double apart = (want[i] - mean / total) / (search[0] * agree);
            factor = 1.0 + apart * apart;
        }
        weight[i] = 1.0 / (best + overlap * (variance[i] * factor));
        pull[i] = fabs(want[i]) / sqrt(best + variance[i] * factor);
    });
}

// agreement: (F,) of faces with enough votes, -1 of others.
extern "C" int agreements(
    const double* agreement, const double* weight, double least, int64_t face_count, double* out, void* stream
) {
    return launch(face_count, stream, EACH (int64_t f) { out[f] = weight[f] > least ? agreement[f] : -1.0; });
}

// trusted: the standard deviation of normals, radians. agreed, pulls: (2,), the two middle ones, NaN where there are none.
extern "C" int trust_in_normals(
    const double* agreed, const double* pulls, double least, double disagreement, double pull, double worst,
    double* trusted, void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double middle = 0.5 * (agreed[0] + agreed[1]), by = 0.5 * (pulls[0] + pulls[1]);
        double spread = middle == middle ? disagreement * sqrt(2.0 * (1.0 - middle)) : 0.0;
        *trusted = fmax(least, spread) * (by == by ? fmin(fmax(pull * by, 1.0), worst) : 1.0);
    });
}

struct Contours {  // rows of all places (V, E + P) and what the keyframe's own rows wanted there
    const double *share, *gradient, *want, *weight, *outline;
    const int32_t* edges;
    int64_t edge_count, places, views;
};

// What a row at a place wants, without what it wanted of the keyframe.
DEVICE double wanted(const Contours& c, int64_t view, int64_t place) {
    int64_t at = view * c.places + place, own = place;
    double share = c.share[at];
    if (place < c.edge_count && (share == 0.0 || share == 1.0)) own = c.edge_count + c.edges[2 * place + (share > 0.5)];
    return c.want[at] - c.outline[view * c.places + own];
}

DEVICE double along(const Contours& c, int64_t at, const double* normal) {
    const double* g = c.gradient + 3 * at;
    return g[0] * normal[0] + g[1] * normal[1] + g[2] * normal[2];
}

// Contours, points, membrane, damping and bending: diagonal, off and right are set. twin: of each neighbour, the entry
// in which it has this vertex for a neighbour. stiff: membrane's constant over an edge's length, squared: its weight.
extern "C" int assemble(
    const double* x, const double* normals, const int32_t* edges, const int32_t* start, const int32_t* neighbour,
    const int32_t* link, const int32_t* twin, const int8_t* unseen, const double* rest_height, const double* share,
    const double* gradient, const double* want, const double* weight, const double* outline, const double* contour_weight,
    const double* point_want, const double* point_weight, const double* edge, double stiff, double damping, int64_t views,
    int64_t vertex_count, int64_t edge_count, double* diagonal, double* off, double* right, void* stream
) {
    Contours c = {share, gradient, want, weight, outline, edges, edge_count, edge_count + vertex_count, views};
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        double square = 0.0, pull = 0.0, bend = 0.0, membrane = stiff / *edge * (stiff / *edge);
        const double *own = x + 3 * i, *normal = normals + 3 * i;
        for (int64_t n = start[i]; n < start[i + 1]; ++n) {
            int64_t j = neighbour[n], e = link[n];
            const double *other = x + 3 * j, *theirs = normals + 3 * j;
            double e0 = other[0] - own[0], e1 = other[1] - own[1], e2 = other[2] - own[2];
            bend -= rest_height[n] - (normal[0] * e0 + normal[1] * e1 + normal[2] * e2);
            bend += rest_height[twin[n]] + (theirs[0] * e0 + theirs[1] * e1 + theirs[2] * e2);
            if (unseen[i] || unseen[j]) continue;
            for (int64_t v = 0; v < c.views; ++v) {
                int64_t at = v * c.places + e;
                if (!(c.weight[at] > 0.0)) continue;
                double part = (edges[2 * e] == i ? 1.0 - c.share[at] : c.share[at]) * along(c, at, normal);
                square += c.weight[at] * part * part;
                pull += c.weight[at] * part * wanted(c, v, e);
            }
        }
        int64_t first = link[start[i]];
        for (int64_t v = 0; v < c.views && !unseen[edges[2 * first]] && !unseen[edges[2 * first + 1]]; ++v) {
            int64_t at = v * c.places + c.edge_count + i;
            if (!(c.weight[at] > 0.0)) continue;
            double part = along(c, at, normal);
            square += c.weight[at] * part * part;
            pull += c.weight[at] * part * wanted(c, v, c.edge_count + i);
        }
        diagonal[i] = *contour_weight * square + damping + membrane * (start[i + 1] - start[i]) + point_weight[i];
        right[i] = *contour_weight * pull + point_weight[i] * point_want[i] + 0.5 * membrane * bend;
    });
    if (failed) return failed;
    return launch(edge_count, stream, EACH (int64_t e) {
        int64_t i = edges[2 * e], j = edges[2 * e + 1];
        double product = 0.0;
        for (int64_t v = 0; v < c.views && !unseen[i] && !unseen[j]; ++v) {
            int64_t at = v * c.places + e;
            if (!(c.weight[at] > 0.0)) continue;
            double s = c.share[at];
            product += c.weight[at] * (1.0 - s) * along(c, at, normals + 3 * i) * s * along(c, at, normals + 3 * j);
        }
        off[e] = *contour_weight * product - stiff / *edge * (stiff / *edge);
    });
}

// Angles of faces to their fused normals, as 1 - cosine, and what they count by: area, to the unit of 2^30 mean areas.
extern "C" int residuals(
    const double* face_normals, const double* fused, const double* weight, const double* areas, const double* area,
    int64_t face_count, double* off, int64_t* counts, void* stream
) {
    return launch(face_count, stream, EACH (int64_t f) {
        const double *a = face_normals + 3 * f, *b = fused + 3 * f;
        off[f] = 1.0 - fmin(fmax(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], -1.0), 1.0);
        counts[f] = weight[f] > 0.0 ? llrint(areas[f] / *area * 1073741824.0) : 0;
    });
}
