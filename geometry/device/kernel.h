// How kernels are written here: one source that nvcc compiles for a GPU and a C++ compiler for the CPU.
//
// A body is a lambda. EACH (int64_t i) { ... } runs once for each i below a count, in no order. EACH_BLOCK runs once for
// each block of THREADS threads: what its threads do stands in PHASE (t) { ... }, with BARRIER between phases, and what
// they hand to each other in `shared`, THREADS doubles. On a GPU a phase is what thread t does; on the CPU it is a loop
// over t. Nothing in a phase may leave it early, and what a thread keeps from one phase to the next must be in memory.
//
// The emulation runs the very bodies; it is not a GPU. It shows wrong arithmetic and wrong indices, and, in its other
// orders (`emulate_order`), results that depend on which thread came first. It does not show missing barriers, memory
// that is on the wrong side, or launches that a GPU refuses.
//
// Every exported function takes pointers, int64_t and double only, a stream last, and returns 0 or the runtime's error.
//
// Decisions that depend on data are made on the device, so that a CUDA graph may hold them: `gated` names a flag there,
// and until another is named, what this thread launches does nothing where the flag is 0 when its turn comes.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

constexpr int THREADS = 256;

// Launches of this library so far, and (the emulation knows) those that a flag did not turn into nothing.
static int64_t launched = 0, worked = 0;
extern "C" int launches_so_far(int64_t* out) { out[0] = launched, out[1] = worked; return 0; }

static thread_local const int32_t* gate = nullptr;
extern "C" int gated(const int32_t* flag) { gate = flag; return 0; }

#ifdef __CUDACC__

#include <cuda_runtime.h>
#define DEVICE static __device__ __forceinline__
#define EACH [=] __device__
#define EACH_BLOCK [=] __device__
#define PHASE(t) if (int t = threadIdx.x; true)
#define BARRIER __syncthreads()

template <class F> __global__ void run_each(F body, int64_t count, const int32_t* flag) {
    if (flag && !*flag) return;
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < count) body(i);
}

template <class F> __global__ void run_blocks(F body, const int32_t* flag) {
    if (flag && !*flag) return;
    __shared__ double shared[THREADS];
    body((int64_t)blockIdx.x, shared);
}

template <class F> int launch(int64_t count, void* stream, F body) {
    ++launched;
    if (count > 0) run_each<<<(unsigned)((count + THREADS - 1) / THREADS), THREADS, 0, (cudaStream_t)stream>>>(body, count, gate);
    return (int)cudaGetLastError();
}

template <class F> int launch_blocks(int64_t blocks, void* stream, F body) {
    ++launched;
    if (blocks > 0) run_blocks<<<(unsigned)blocks, THREADS, 0, (cudaStream_t)stream>>>(body, gate);
    return (int)cudaGetLastError();
}

DEVICE void atomic_max(uint64_t* at, uint64_t value) { atomicMax((unsigned long long*)at, (unsigned long long)value); }
DEVICE void atomic_add(int64_t* at, int64_t value) { atomicAdd((unsigned long long*)at, (unsigned long long)value); }
DEVICE int32_t atomic_next(int32_t* at) { return atomicAdd(at, 1); }
DEVICE int32_t atomic_min(int32_t* at, int32_t value) { return atomicMin(at, value); }
DEVICE int64_t bits_of(double value) { return __double_as_longlong(value); }
DEVICE double double_of(int64_t bits) { return __longlong_as_double(bits); }

extern "C" int use_device(int64_t index) { return (int)cudaSetDevice((int)index); }
extern "C" const char* what_failed(int64_t code) { return cudaGetErrorString((cudaError_t)code); }

#else

#include <thread>
#include <vector>
#define DEVICE static inline
#define EACH [=]
#define EACH_BLOCK [=]
#define PHASE(t) for (int t = 0; t < THREADS; ++t)
#define BARRIER

static int emulated_order = 0;
extern "C" int emulate_order(int64_t order) { emulated_order = (int)order; return 0; }  // 0 forward, 1 backward, 2 at once

template <class F> static void in_order(int64_t count, F body) {
    if (emulated_order == 0) {
        for (int64_t i = 0; i < count; ++i) body(i);
    } else if (emulated_order == 1) {
        for (int64_t i = count - 1; i >= 0; --i) body(i);
    } else {
        const int64_t workers = 4;
        std::vector<std::thread> threads;
        for (int64_t w = 0; w < workers; ++w)
            threads.emplace_back([=] { for (int64_t i = w; i < count; i += workers) body(i); });
        for (auto& thread : threads) thread.join();
    }
}

template <class F> int launch(int64_t count, void*, F body) {
    ++launched;
    if (gate && !*gate) return 0;
    ++worked;
    in_order(count, body);
    return 0;
}

template <class F> int launch_blocks(int64_t blocks, void*, F body) {
    ++launched;
    if (gate && !*gate) return 0;
    ++worked;
    in_order(blocks, [=](int64_t block) { double shared[THREADS]; body(block, shared); });
    return 0;
}

DEVICE void atomic_max(uint64_t* at, uint64_t value) {
    uint64_t held = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (held < value && !__atomic_compare_exchange_n(at, &held, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}
DEVICE void atomic_add(int64_t* at, int64_t value) { __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
DEVICE int32_t atomic_next(int32_t* at) { return __atomic_fetch_add(at, 1, __ATOMIC_RELAXED); }
DEVICE int32_t atomic_min(int32_t* at, int32_t value) {
    int32_t held = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (held > value && !__atomic_compare_exchange_n(at, &held, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return held;
}
DEVICE int64_t bits_of(double value) { int64_t bits; memcpy(&bits, &value, 8); return bits; }
DEVICE double double_of(int64_t bits) { double value; memcpy(&value, &bits, 8); return value; }

extern "C" int use_device(int64_t) { return 0; }
extern "C" const char* what_failed(int64_t) { return "the emulation cannot fail"; }

#endif

// The sum of what a block's threads left in `shared`; the same for all of them, and the same each time.
DEVICE double block_sum(double* shared) {
    BARRIER;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        PHASE(t) { if (t < half) shared[t] += shared[t + half]; }
        BARRIER;
    }
    double sum = shared[0];
    BARRIER;
    return sum;
}

// The largest of what a block's threads left in `shared`, as block_sum gives their sum.
DEVICE double block_max(double* shared) {
    BARRIER;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        PHASE(t) { if (t < half) shared[t] = fmax(shared[t], shared[t + half]); }
        BARRIER;
    }
    double largest = shared[0];
    BARRIER;
    return largest;
}
