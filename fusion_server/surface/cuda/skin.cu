// Vertices follow the skin: the twin of fusion_server/surface/skin.py, whose docstrings say what is computed. A round of
// it asks every vertex, solves for groups (groups.cu) and decides by flags whether they go, and whether another follows.
#include "view.h"

// Where pictures of all sizes stand, one after the other: (V, rows, columns) of the finest, then of each half.
struct Size {
    int64_t rows, columns, first;
};

DEVICE Size size_of(int64_t level, int64_t views, int64_t rows, int64_t columns) {
    Size size = {rows, columns, 0};
    for (int64_t n = 0; n < level; ++n) {
        size.first += views * size.rows * size.columns;
        size.rows = (size.rows + 1) / 2, size.columns = (size.columns + 1) / 2;
    }
    return size;
}

// level: how often pictures are to be halved until a pixel covers about so many metres. pixel: what it covers then.
// finest: (2,), the two middle ones of the pictures' metres a pixel.
extern "C" int as_coarse(
    const double* finest, double footprint, int64_t levels, int32_t* level, double* pixel, void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double covers = 0.5 * (finest[0] + finest[1]);
        int32_t n = 0;
        for (; n < levels - 1 && covers < footprint / sqrt(2.0); ++n) covers *= 2.0;
        *level = n, *pixel = covers;
    });
}

// Whether the nearest pixel of the maps is of the subject, where a picture's pixel falls: cv2.warpAffine, in its fixed point.
DEVICE int8_t masked(const int8_t* inside, int64_t height, int64_t width, const double* onto, int64_t x, int64_t y) {
    constexpr double ONE = 1024.0;
    int64_t column = ((int64_t)rint((onto[1] * y + onto[2]) * ONE) + 512 + (int64_t)rint(onto[0] * x * ONE)) >> 10;
    int64_t row = ((int64_t)rint((onto[4] * y + onto[5]) * ONE) + 512 + (int64_t)rint(onto[3] * x * ONE)) >> 10;
    return row >= 0 && row < height && column >= 0 && column < width && inside[row * width + column] ? 1 : 0;
}

// grey, matrix: of all sizes (levels, V, ...). around: pixels, side of the square. onto: (V, 6), from a picture's pixels to
// the maps'. mask: (V, rows, columns), room. out: (V, h, w) of the level, NaN off the subject. Sums are exact and then
// rounded as OpenCV's are: so near to equal, a contrast would tell.
extern "C" int comparable(
    const float* grey, const double* matrix, const int32_t* level, int64_t views, int64_t rows, int64_t columns,
    const int8_t* inside, const double* map_matrix, int64_t map_rows, int64_t map_columns, int64_t around, double quiet,
    double* onto, int8_t* mask, float* out, void* stream
) {
    int64_t most = views * rows * columns, half = around / 2;
    int failed = launch(views, stream, EACH (int64_t v) {
        const double *a = matrix + 12 * (views * *level + v), *b = map_matrix + 12 * v;
        double c[9];  // of a's first three columns, cofactors: over their product with its first row, the inverse
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) {
                const double *p = a + 4 * ((j + 1) % 3), *q = a + 4 * ((j + 2) % 3);
                c[3 * i + j] = p[(i + 1) % 3] * q[(i + 2) % 3] - p[(i + 2) % 3] * q[(i + 1) % 3];
            }
        double m[9];
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) m[3 * i + j] = b[4 * i] * c[j] + b[4 * i + 1] * c[3 + j] + b[4 * i + 2] * c[6 + j];
        for (int k = 0; k < 6; ++k) onto[6 * v + k] = m[k] / m[8];
    });
    if (failed) return failed;
    failed = launch(most, stream, EACH (int64_t i) {
        Size s = size_of(*level, views, rows, columns);
        if (i >= views * s.rows * s.columns) return;
        int64_t v = i / (s.rows * s.columns);
        const int8_t* own = inside + v * map_rows * map_columns;
        mask[i] = masked(own, map_rows, map_columns, onto + 6 * v, i % s.columns, i / s.columns % s.rows);
    });
    if (failed) return failed;
    return launch(most, stream, EACH (int64_t i) {
        Size s = size_of(*level, views, rows, columns);
        if (i >= views * s.rows * s.columns) return;
        out[i] = NAN;
        if (!mask[i]) return;
        int64_t x = i % s.columns, y = i / s.columns % s.rows, first = i - y * s.columns - x;
        double share = 0.0, own = 0.0, square = 0.0;
        for (int64_t dy = -half; dy <= half; ++dy) {
            int64_t line = first + mirrored(y + dy, s.rows) * s.columns;
            for (int64_t dx = -half; dx <= half; ++dx) {
                int64_t at = line + mirrored(x + dx, s.columns);
                if (!mask[at]) continue;
                float value = grey[s.first + at];
                share += 1.0, own += value, square += value * value;
            }
        }
        double over = 1.0 / (double)(around * around);
        float part = (float)(share * over), mean = (float)(own * over) / part;
        float contrast = fmaxf((float)(square * over) / part - mean * mean, 0.0f);
        out[i] = (grey[s.first + i] - mean) / sqrtf(contrast + (float)(quiet * quiet));
    });
}

// facing: (V, P), how squarely each view shows each vertex, from 1 down to 0 where it is nearly grazing or hidden.
extern "C" int facing(
    const double* x, const double* normals, const double* matrix, const double* center, const float* depth,
    int64_t views, int64_t height, int64_t width, int64_t vertex_count, double least, double slack, float* facing,
    void* stream
) {
    return launch(views * vertex_count, stream, EACH (int64_t at) {
        int64_t v = at / vertex_count, i = at % vertex_count;
        const double* p = x + 3 * i;
        double cosine = facing_of(normals + 3 * i, center + 3 * v, p[0], p[1], p[2]);
        bool seen = cosine > least && sees(matrix + 12 * v, depth + v * height * width, height, width, p[0], p[1], p[2], slack);
        facing[at] = seen ? (float)((cosine - least) / (1.0 - least)) : 0.0f;
    });
}

// A comparable level at a pixel and its steps to the right and down, central differences; NaN beside what is off.
DEVICE double level_at(const float* map, int64_t rows, int64_t columns, double px, double py, double& across, double& down) {
    int64_t jx = (int64_t)px, jy = (int64_t)py;
    if (!(px >= 1.0 && py >= 1.0 && px < columns - 1.001 && py < rows - 1.001) || jx + 2 >= columns || jy + 2 >= rows) return NAN;
    double fx = px - jx, fy = py - jy, value = 0.0;
    double shares[4] = {(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy};
    across = down = 0.0;
    for (int k = 0; k < 4; ++k) {
        const float* at = map + (jy + k / 2) * columns + jx + k % 2;
        value += shares[k] * at[0];
        across += shares[k] * (0.5f * (at[1] - at[-1]));
        down += shares[k] * (0.5f * (at[columns] - at[-columns]));
    }
    return value + 0.0 * (across + down);
}

// Where a point falls in a view; one over its depth.
DEVICE double pixel(const double* m, const double* p, double& px, double& py) {
    double over = 1.0 / (m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11]);
    px = (m[0] * p[0] + m[1] * p[1] + m[2] * p[2] + m[3]) * over;
    py = (m[4] * p[0] + m[5] * p[1] + m[6] * p[2] + m[7]) * over;
    return over;
}

// Over all vertices and the views that know them, what skin.uncorrelated takes: weight, and weighted what should be seen, what
// is, and their products. sums: (P, 6), room. out: (6,).
extern "C" int likeness(
    const double* x, const float* facing, const float* maps, const double* matrix, const int32_t* level, int64_t views,
    int64_t rows, int64_t columns, const float* expected, int64_t vertex_count, double* sums, double* out, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        Size s = size_of(*level, views, rows, columns);
        double total[6] = {0, 0, 0, 0, 0, 0};
        for (int64_t v = 0; v < views; ++v) {
            double weight = facing[v * vertex_count + i], should = expected[v * vertex_count + i], across, down, px, py;
            if (weight <= 0.0 || should != should) continue;
            pixel(matrix + 12 * (views * *level + v), x + 3 * i, px, py);
            double value = level_at(maps + v * s.rows * s.columns, s.rows, s.columns, px, py, across, down);
            if (value != value) continue;
            double part[6] = {1.0, should, value, should * should, should * value, value * value};
            for (int k = 0; k < 6; ++k) total[k] += weight * part[k];
        }
        for (int k = 0; k < 6; ++k) sums[6 * i + k] = total[k];
    });
    if (failed) return failed;
    return launch_blocks(6, stream, EACH_BLOCK (int64_t k, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t i = t; i < vertex_count; i += THREADS) shared[t] += sums[6 * i + k];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) out[k] = sum; }
    });
}

// What a vertex asks of its motion: normal equations, six of the system and three of its right side; then of each group.
// matrix: of all sizes. expected: (V, P), NaN where nobody knows. sums: (P, 9), room. system: (G, 6). right: (G, 3).
extern "C" int asked(
    const double* x, const double* normals, const float* facing, const float* maps, const double* matrix,
    const int32_t* level, int64_t views, int64_t rows, int64_t columns, const float* expected, int64_t vertex_count,
    double noise, double outlier, const int32_t* first, const int32_t* member, int64_t groups, double* sums,
    double* system, double* right, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        Size s = size_of(*level, views, rows, columns);
        const double *p = x + 3 * i, *n = normals + 3 * i;
        double total[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
        for (int64_t v = 0; v < views; ++v) {
            double face = facing[v * vertex_count + i], wanted = expected[v * vertex_count + i], across, down;
            if (face <= 0.0 || wanted != wanted) continue;
            const double* m = matrix + 12 * (views * *level + v);
            double px, py, over = pixel(m, p, px, py);
            double value = level_at(maps + v * s.rows * s.columns, s.rows, s.columns, px, py, across, down);
            if (value != value) continue;
            double g[3], off = 0.0;
            for (int k = 0; k < 3; ++k) {
                g[k] = (across * (m[k] - px * m[8 + k]) + down * (m[4 + k] - py * m[8 + k])) * over;
                off += g[k] * n[k];
            }
            for (int k = 0; k < 3; ++k) g[k] -= off * n[k];  // along the normal is for others to tell
            double missing = wanted - value, doubt = missing / outlier;
            double weight = face / (noise * noise * (1.0 + doubt * doubt));
            for (int a = 0, at = 0; a < 3; ++a) {
                for (int b = a; b < 3; ++b, ++at) total[at] += weight * g[a] * g[b];
                total[6 + a] += weight * missing * g[a];
            }
        }
        for (int k = 0; k < 9; ++k) sums[9 * i + k] = total[k];
    });
    if (failed) return failed;
    return launch(groups, stream, EACH (int64_t g) {
        double total[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
        for (int64_t n = first[g]; n < first[g + 1]; ++n)
            for (int k = 0; k < 9; ++k) total[k] += sums[9 * (int64_t)member[n] + k];
        for (int k = 0; k < 6; ++k) system[6 * g + k] = total[k];
        for (int k = 0; k < 3; ++k) right[3 * g + k] = total[6 + k];
    });
}

// Before the first round on pictures of a size: that there is one (null: in any case), and no other yet.
extern "C" int begin(const int32_t* when, int64_t rounds, int32_t* go, void* stream) {
    return launch(1, stream, EACH (int64_t) {
        for (int64_t n = 1; n <= rounds; ++n) go[n] = 0;
        go[0] = when ? *when : 1;
    });
}

// After a round: whether the groups go where they were told to (`moves`), and whether there is another one (`next`). usual,
// most: metres that nearly all and that the farthest would go. far: pixels beyond which coarser pictures have to `lead` the
// way (null: they have).
extern "C" int decide(
    const double* usual, const double* most, const double* pixel, double far, double near, double rounding,
    int32_t* lead, int32_t* moves, int32_t* next, void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double pixels = *usual / *pixel;
        bool too_far = lead && pixels > far;
        if (lead) *lead = too_far;
        *moves = !too_far && *most >= rounding;
        *next = *moves && pixels >= near;
    });
}
