// What is made of a frame before its surface is looked at: weights of mean 1, where the subject is, how large a pixel is
// there, maps and pictures of half the size, pictures ready to compare, and what is searched on them: the twins of
// observation.observe, Observation.coarser, photometric.pictures, Pictures.coarser and photometric.search_of.
#include "view.h"

// sums: (V, 4) int64: pixels inside, their x, their y. trusts: (V, H), a row's confidence inside. trust: (V, H, W).
extern "C" int weigh(
    const float* confidence, const int8_t* inside, int64_t views, int64_t height, int64_t width, int64_t* sums,
    double* trusts, double* mean, float* trust, void* stream
) {
    int64_t pixels = height * width;
    int failed = launch(4 * views, stream, EACH (int64_t i) { sums[i] = 0; });
    if (failed) return failed;
    failed = launch_blocks(views * height, stream, EACH_BLOCK (int64_t row, double* shared) {
        double found[3];
        for (int k = 0; k < 3; ++k) {
            PHASE (t) {
                shared[t] = 0.0;
                for (int64_t x = t; x < width; x += THREADS)
                    if (inside[row * width + x]) shared[t] += k == 0 ? 1.0 : k == 1 ? (double)x : confidence[row * width + x];
            }
            found[k] = block_sum(shared);
        }
        PHASE (t) {
            int64_t *own = sums + 4 * (row / height), count = (int64_t)found[0];
            if (t == 0) {
                atomic_add(own, count), atomic_add(own + 1, (int64_t)found[1]), atomic_add(own + 2, count * (row % height));
                trusts[row] = found[2];
            }
        }
    });
    if (failed) return failed;
    failed = launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t k = t; k < views * height; k += THREADS) shared[t] += trusts[k];
        }
        double total = block_sum(shared);
        PHASE (t) {
            int64_t count = 0;
            for (int64_t v = 0; v < views; ++v) count += sums[4 * v];
            if (t == 0) *mean = count ? total / count : 0.0;
        }
    });
    if (failed) return failed;
    return launch(views * pixels, stream, EACH (int64_t i) {
        trust[i] = *mean > 0.0 ? fminf(fmaxf(confidence[i] / (float)*mean, 0.0f), 4.0f) : 1.0f;
    });
}

// Solves a symmetric 3 x 3 system, given with its right side as (3, 4); what nothing fixes becomes 0.
DEVICE void solve3(double* a, double* x) {
    for (int k = 0; k < 3; ++k) {
        int pivot = k;
        for (int i = k + 1; i < 3; ++i)
            if (fabs(a[4 * i + k]) > fabs(a[4 * pivot + k])) pivot = i;
        for (int j = 0; j < 4; ++j) {
            double held = a[4 * k + j];
            a[4 * k + j] = a[4 * pivot + j], a[4 * pivot + j] = held;
        }
        for (int i = k + 1; i < 3 && fabs(a[5 * k]) > 1e-12; ++i) {
            double share = a[4 * i + k] / a[5 * k];
            for (int j = k; j < 4; ++j) a[4 * i + j] -= share * a[4 * k + j];
        }
    }
    for (int k = 2; k >= 0; --k) {
        double rest = a[4 * k + 3];
        for (int j = k + 1; j < 3; ++j) rest -= a[4 * k + j] * x[j];
        x[k] = fabs(a[5 * k]) > 1e-12 ? rest / a[5 * k] : 0.0;
    }
}

// middle: (3,), the point nearest to the rays through the middles of the masks. away, fine_away: (V,) metres a pixel.
extern "C" int find_middle(
    const int64_t* sums, const int8_t* blind, const double* inverse, const double* rotation, const double* center,
    const double* focal, const double* fine_center, const double* fine_focal, int64_t views, double* middle,
    double* away, double* fine_away, void* stream
) {
    int failed = launch(1, stream, EACH (int64_t) {
        double a[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
        for (int64_t v = 0; v < views; ++v) {
            if (blind[v]) continue;
            const double *k = inverse + 9 * v, *r = rotation + 9 * v, *c = center + 3 * v;
            double x = (double)sums[4 * v + 1] / sums[4 * v], y = (double)sums[4 * v + 2] / sums[4 * v], d[3], ray[3];
            for (int i = 0; i < 3; ++i) d[i] = k[3 * i] * x + k[3 * i + 1] * y + k[3 * i + 2];
            for (int i = 0; i < 3; ++i) ray[i] = r[i] * d[0] + r[3 + i] * d[1] + r[6 + i] * d[2];
            double scale = 1.0 / sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]);
            for (int i = 0; i < 3; ++i) ray[i] *= scale;
            for (int i = 0; i < 3; ++i)
                for (int j = 0; j < 3; ++j) {
                    double off = (i == j) - ray[i] * ray[j];
                    a[4 * i + j] += off, a[4 * i + 3] += off * c[j];
                }
        }
        solve3(a, middle);
    });
    if (failed) return failed;
    return launch(2 * views, stream, EACH (int64_t i) {
        const double *c = (i < views ? center + 3 * i : fine_center + 3 * (i - views));
        double x = c[0] - middle[0], y = c[1] - middle[1], z = c[2] - middle[2], far = sqrt(x * x + y * y + z * z);
        if (i < views) away[i] = far / focal[i];
        else fine_away[i - views] = far / fine_focal[i - views];
    });
}

// Every second pixel of maps (V, H, W), and their cameras.
extern "C" int coarser(
    const float* normal, const float* trust, const float* distance, const int8_t* inside, const double* matrix,
    const double* focal, const double* intrinsics, const double* known, int64_t views, int64_t height, int64_t width,
    float* normal_out, float* trust_out, float* distance_out, int8_t* inside_out, double* matrix_out, double* focal_out,
    double* intrinsics_out, double* known_out, void* stream
) {
    int64_t rows = (height + 1) / 2, columns = (width + 1) / 2;
    return launch(views * rows * columns, stream, EACH (int64_t i) {
        int64_t v = i / (rows * columns), from = (v * height + 2 * (i / columns % rows)) * width + 2 * (i % columns);
        for (int k = 0; k < 3; ++k) normal_out[3 * i + k] = normal[3 * from + k];
        trust_out[i] = trust[from], inside_out[i] = inside[from], distance_out[i] = 0.5f * distance[from];
        if (i % (rows * columns)) return;
        for (int k = 0; k < 12; ++k) matrix_out[12 * v + k] = (k < 8 ? 0.5 : 1.0) * matrix[12 * v + k];
        for (int k = 0; k < 4; ++k) intrinsics_out[4 * v + k] = 0.5 * intrinsics[4 * v + k];
        for (int k = 0; k < 4; ++k) known_out[4 * v + k] = floor(0.5 * known[4 * v + k]);
        focal_out[v] = 0.5 * focal[v];
    });
}

// Grey pictures (V, rows, columns), blurred; taps: of the blur's half, from the middle on. across: room.
extern "C" int grey_pictures(
    const uint8_t* image, int64_t channels, const float* taps, int64_t tap_count, int64_t views, int64_t rows,
    int64_t columns, float* across, float* grey, void* stream
) {
    int64_t all = views * rows * columns;
    int failed = launch(all, stream, EACH (int64_t i) {
        int64_t line = i / columns * columns, x = i % columns;
        float sum = 0.0f;
        for (int64_t k = 1 - tap_count; k < tap_count; ++k) {
            const uint8_t* from = image + channels * (line + mirrored(x + k, columns));
            int level = channels == 1 ? from[0] : (from[0] * 9798 + from[1] * 19235 + from[2] * 3735 + 16384) >> 15;
            sum += taps[k < 0 ? -k : k] * (float)level;
        }
        across[i] = sum;
    });
    if (failed) return failed;
    return launch(all, stream, EACH (int64_t i) {
        int64_t y = i / columns % rows, first = i - y * columns;
        float sum = 0.0f;
        for (int64_t k = 1 - tap_count; k < tap_count; ++k)
            sum += taps[k < 0 ? -k : k] * across[first + mirrored(y + k, rows) * columns];
        grey[i] = sum;
    });
}

// cv2.pyrDown of pictures, and their cameras.
extern "C" int coarser_pictures(
    const float* grey, const double* matrix, int64_t views, int64_t rows, int64_t columns, float* out,
    double* matrix_out, void* stream
) {
    int64_t lines = (rows + 1) / 2, across = (columns + 1) / 2;
    return launch(views * lines * across, stream, EACH (int64_t i) {
        int64_t v = i / (lines * across), y = 2 * (i / across % lines), x = 2 * (i % across);
        const float taps[3] = {6.0f, 4.0f, 1.0f};
        float sum = 0.0f;
        for (int64_t dy = -2; dy <= 2; ++dy) {
            const float* line = grey + (v * rows + mirrored(y + dy, rows)) * columns;
            float own = 0.0f;
            for (int64_t dx = -2; dx <= 2; ++dx) own += taps[dx < 0 ? -dx : dx] * line[mirrored(x + dx, columns)];
            sum += taps[dy < 0 ? -dy : dy] * own;
        }
        out[i] = sum / 256.0f;
        if (i % (lines * across) == 0)
            for (int k = 0; k < 12; ++k) matrix_out[12 * v + k] = (k < 8 ? 0.5 : 1.0) * matrix[12 * v + k];
    });
}

// search: scale, step, reach, slack and apart in metres, samples a face. places: (9, 2) of the samples.
// edge: of the mesh, metres. footprint: (2,), the two middle ones of the pictures' metres a pixel.
extern "C" int search_of(
    const double* edge, const double* footprint, double times, double common, double reach, double step, double apart,
    double spacing, double* search, double* places, void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double pixel = times * 0.5 * (footprint[0] + footprint[1]), scale = fmin(fmax(pixel / common, 0.25), 4.0);
        search[0] = scale, search[1] = step * scale, search[2] = rint(reach / step) * search[1];
        search[3] = 3.0 * scale * common, search[4] = scale * apart;
        double cuts = fmin(fmax(rint(*edge / pixel / spacing / 1.6), 1.0), 3.0);
        int count = 0, n = (int)cuts;
        for (int turned = 0; turned < 2; ++turned)
            for (int i = 0; i < n - turned; ++i)
                for (int j = 0; j < n - turned - i; ++j, ++count) {
                    places[2 * count] = (i + (1 + turned) / 3.0) / n;
                    places[2 * count + 1] = (j + (1 + turned) / 3.0) / n;
                }
        search[5] = count;
    });
}
