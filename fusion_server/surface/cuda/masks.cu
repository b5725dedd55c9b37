// Masks made useful: the twin of fusion_server/surface/silhouette.py, whose comments say why. Pieces are found by
// union and find of spans with atomic minima, so a piece's label is its first pixel, whichever thread came first. Paths are
// halved on the way, as in ECL-CC (Jaiganesh and Burtscher, HPDC 2018): no thread walks one as long as a piece is high.
// The distance is cv2's: the shortest way in steps of 1, 1.4 (to a corner) and 2.1969 pixels (as a knight moves).
#include "kernel.h"

constexpr double DIAGONAL = 1.4, KNIGHT = 2.1969, FARTHEST = 3.4028234663852886e38;  // the last where there is none
constexpr int32_t NEVER = 1 << 29;
constexpr int64_t SPAN = 32;  // pixels of a row that are labelled and counted as one

DEVICE int32_t root(const int32_t* label, int32_t at) {
    while (label[at] != at) at = label[at];
    return at;
}

// The same, with every second step left out for whoever comes after. Only what is no root is written to, and it never
// becomes one again; what a slower thread writes there is an ancestor all the same, if perhaps a nearer one.
DEVICE int32_t halved(int32_t* label, int32_t at) {
    for (;;) {
        int32_t up = label[at], next = label[up];
        if (next == up) return up;
        label[at] = next;
        at = next;
    }
}

DEVICE void unite(int32_t* label, int32_t a, int32_t b) {
    for (a = halved(label, a), b = halved(label, b); a != b;) {
        if (a < b) { int32_t other = a; a = b, b = other; }
        int32_t held = atomic_min(label + a, b);
        if (held == a) return;
        a = halved(label, held), b = halved(label, b);  // another thread was faster
    }
}

// 4-connected pieces, whose first pixels the labels become, and how large they are, there. label: before, the first pixel
// of each pixel's span: of its run in its row, from the last multiple of SPAN on (-1: in none).
static int pieces(int64_t views, int64_t height, int64_t width, int32_t* label, int64_t* area, void* stream) {
    int64_t all = views * height * width;
    int failed = launch(all, stream, EACH (int64_t i) {
        int64_t x = i % width;
        area[i] = 0;
        if (label[i] < 0) return;
        bool left = x && label[i - 1] >= 0;
        if (left && x % SPAN == 0) unite(label, (int32_t)i, (int32_t)i - 1);
        if (!(i / width % height) || label[i - width] < 0) return;
        if (left && label[i - width - 1] >= 0) return;  // who unites the same two runs
        unite(label, (int32_t)i, (int32_t)(i - width));
    });
    if (failed) return failed;
    return launch(all, stream, EACH (int64_t i) {  // a span is counted by its first pixel: sums wait for each other
        if (label[i] < 0) return;
        int64_t x = i % width, count = 1;
        int32_t piece = root(label, (int32_t)i);
        label[i] = piece;
        if (x % SPAN && label[i - 1] >= 0) return;
        while ((x + count) % SPAN && x + count < width && label[i + count] >= 0) ++count;
        atomic_add(area + piece, count);
    });
}

// found: (V, 4) of the pieces: the largest's area, how many, the sum of areas, how many are too small.
static int surveyed(int64_t views, int64_t pixels, const int32_t* label, const int64_t* area, int64_t* found, void* stream) {
    int failed = launch(4 * views, stream, EACH (int64_t i) { found[i] = 0; });
    if (failed) return failed;
    return launch(views * pixels, stream, EACH (int64_t i) {
        if (label[i] != i) return;
        int64_t* own = found + 4 * (i / pixels);
        atomic_max((uint64_t*)own, (uint64_t)area[i]);
        atomic_add(own + 1, 1);
        atomic_add(own + 2, area[i]);
    });
}

// soft: (V, H, W), cleaned. blind: (V,). The rest is room.
extern "C" int clean_masks(
    const float* mask, const double* known, int64_t views, int64_t height, int64_t width, double keep, double hole,
    double smallest, int32_t* label, int64_t* area, int64_t* found, int8_t* blind, float* other, float* soft,
    void* stream
) {
    int64_t pixels = height * width, all = views * pixels;
    int failed = launch(all, stream, EACH (int64_t i) {  // continued beyond the known rectangle by its edge
        const double* k = known + 4 * (i / pixels);
        int64_t x = i % width, y = i / width % height, low = (int64_t)k[0], high = (int64_t)k[2];
        y = y < (int64_t)k[1] ? (int64_t)k[1] : y > (int64_t)k[3] ? (int64_t)k[3] : y;
        const float* row = mask + i / pixels * pixels + y * width;
        other[i] = row[x < low ? low : x > high ? high : x];
        label[i] = -1;
        if (other[i] <= 0.5f) return;
        int64_t begin = x;
        while (begin % SPAN && row[begin - 1 < low ? low : begin - 1 > high ? high : begin - 1] > 0.5f) --begin;
        label[i] = (int32_t)(i - x + begin);
    });
    if (!failed) failed = pieces(views, height, width, label, area, stream);
    if (!failed) failed = surveyed(views, pixels, label, area, found, stream);
    if (failed) return failed;
    failed = launch(all, stream, EACH (int64_t i) {
        int64_t* own = found + 4 * (i / pixels);
        if (i % pixels == 0) blind[i / pixels] = own[0] < smallest * pixels;
        if (label[i] == i && area[i] < keep * own[0]) atomic_add(own + 3, 1);
    });
    if (failed) return failed;
    failed = launch(all, stream, EACH (int64_t i) {
        const int64_t* own = found + 4 * (i / pixels);
        soft[i] = other[i];
        if (!own[3]) return;  // all pieces are large
        if (label[i] >= 0) {
            if (area[label[i]] < keep * own[0]) soft[i] = 0.0f;
            return;
        }
        int64_t x = i % width, y = i / width % height;
        bool near = false;
        for (int64_t v = y - 2; v <= y + 2; ++v)
            for (int64_t u = x - 2; u <= x + 2; ++u) {
                if (u < 0 || v < 0 || u >= width || v >= height) continue;
                int32_t at = (int32_t)(i / pixels * pixels + v * width + u);
                near = near || (label[at] >= 0 && area[label[at]] >= keep * own[0]);
            }
        if (!near) soft[i] = 0.0f;
    });
    if (failed) return failed;
    failed = launch(all, stream, EACH (int64_t i) {
        label[i] = -1;
        if (soft[i] > 0.5f) return;
        int64_t x = i % width, begin = x;
        while (begin % SPAN && soft[i - x + begin - 1] <= 0.5f) --begin;
        label[i] = (int32_t)(i - x + begin);
    });
    if (!failed) failed = pieces(views, height, width, label, area, stream);
    if (!failed) failed = surveyed(views, pixels, label, area, found, stream);
    if (failed) return failed;
    failed = launch(all, stream, EACH (int64_t i) {  // what touches the border is no hole
        int64_t x = i % width, y = i / width % height;
        if (label[i] < 0 || (x > 0 && y > 0 && x < width - 1 && y < height - 1)) return;
        area[label[i]] = INT64_MAX;
    });
    if (failed) return failed;
    return launch(all, stream, EACH (int64_t i) {
        const int64_t* own = found + 4 * (i / pixels);
        if (label[i] >= 0 && own[1] > 1 && area[label[i]] < hole * (pixels - own[2])) soft[i] = 1.0f;
    });
}

DEVICE double length(int64_t x, int64_t y) {
    int64_t more = x > y ? x : y, less = x > y ? y : x;
    return 2 * less <= more ? less * KNIGHT + (more - 2 * less) : (more - less) * KNIGHT + (2 * less - more) * DIAGONAL;
}

// steps: (V, H, W) int32, room: how far up or down the nearest pixel of the other kind is. taps: of the blur's half,
// from the middle on. quantile: (1024,). inside, distance: (V, H, W).
extern "C" int signed_distances(
    const float* soft, const int8_t* blind, const float* taps, int64_t tap_count, const float* quantile, int64_t views,
    int64_t height, int64_t width, int32_t* steps, float* across, int8_t* inside, float* distance, void* stream
) {
    int64_t pixels = height * width, all = views * pixels;
    int failed = launch(views * width, stream, EACH (int64_t i) {
        int64_t top = i / width * pixels + i % width, last[2] = {-1, -1};
        for (int64_t y = 0; y < height; ++y) {
            int64_t at = top + y * width, hard = soft[at] > 0.5f;
            last[hard] = y;
            steps[at] = last[1 - hard] < 0 ? NEVER : (int32_t)(y - last[1 - hard]);
        }
        last[0] = last[1] = -1;
        for (int64_t y = height - 1; y >= 0; --y) {
            int64_t at = top + y * width, hard = soft[at] > 0.5f;
            last[hard] = y;
            if (last[1 - hard] >= 0 && last[1 - hard] - y < steps[at]) steps[at] = (int32_t)(last[1 - hard] - y);
        }
    });
    if (failed) return failed;
    failed = launch(all, stream, EACH (int64_t i) {
        int64_t x = i % width;
        float sum = taps[0] * soft[i];
        for (int64_t k = 1; k < tap_count; ++k)
            sum += taps[k] * (soft[i - (x < k ? x : k)] + soft[i + (x + k < width ? k : width - 1 - x)]);
        across[i] = sum;
    });
    if (failed) return failed;
    return launch(all, stream, EACH (int64_t i) {
        int64_t v = i / pixels, y = i / width % height, x = i % width;
        if (blind[v]) {
            inside[i] = 0, distance[i] = -(float)(height > width ? height : width);
            return;
        }
        bool hard = soft[i] > 0.5f;
        double best = FARTHEST;
        for (int64_t d = 0; d < width && d < best; ++d)
            for (int side = -1; side <= 1; side += 2) {
                int64_t u = x + side * d;
                if (u < 0 || u >= width) continue;
                // A column whose pixel here is of the other kind begins right here.
                int64_t up = (soft[i + side * d] > 0.5f) != hard ? 0 : steps[i + side * d];
                if (up < NEVER) best = fmin(best, length(d, up));
            }
        float blurred = taps[0] * across[i];
        for (int64_t k = 1; k < tap_count; ++k) {
            int64_t above = y < k ? y : k, below = y + k < height ? k : height - 1 - y;
            blurred += taps[k] * (across[i - above * width] + across[i + below * width]);
        }
        int64_t place = (int64_t)(blurred * 1024);
        float near = quantile[place < 0 ? 0 : place > 1023 ? 1023 : place];
        double far = (hard ? 1.0 : -1.0) * (best - 0.5);
        double share = fmin(fmax(fabs(far) - 1.0, 0.0), 1.0);
        inside[i] = hard, distance[i] = (float)(near + share * (far - near));
    });
}
