/* SPDX-License-Identifier: MIT
 * cuBLAS on the shapes of gpu_kernels: bf16 weights, inputs and outputs, f32 sums. The toolkit's
 * libraries are loaded where they are and linked nowhere; what is missing is a sentence and exit
 * status 3. Copies of random weights, recordings and rounds are those of gpu_kernels. One line of
 * CSV per measurement:
 *   shape,n,k,rows,us,gb_per_s,tflop_per_s
 *   gpu_cublas [--tiny] [N]     device N */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_shapes.h"

enum { MOST_WARM = 64, NOT_THERE = 3 };
enum { BLOCK = 1 << 24, WORKSPACE = 1 << 25 }; /* bytes */

/* Values of the toolkit's enumerations (library_types.h, cublas_api.h, driver_types.h). */
enum { R_16BF = 14, COMPUTE_32F = 68, ALGO_DEFAULT = -1, OP_N = 0, OP_T = 1 };
enum { TO_DEVICE = 1, CAPTURE_RELAXED = 2 };

typedef struct toolkit {
    void *runtime, *blas;
    int (*cudaSetDevice)(int);
    int (*cudaMalloc)(void **, size_t);
    int (*cudaFree)(void *);
    int (*cudaMemcpy)(void *, const void *, size_t, int);
    const char *(*cudaGetErrorString)(int);
    int (*cudaStreamCreate)(void **);
    int (*cudaStreamSynchronize)(void *);
    int (*cudaStreamBeginCapture)(void *, int);
    int (*cudaStreamEndCapture)(void *, void **);
    int (*cudaGraphInstantiateWithFlags)(void **, void *, unsigned long long);
    int (*cudaGraphLaunch)(void *, void *);
    int (*cudaGraphExecDestroy)(void *);
    int (*cudaGraphDestroy)(void *);
    int (*cudaEventCreate)(void **);
    int (*cudaEventRecord)(void *, void *);
    int (*cudaEventSynchronize)(void *);
    int (*cudaEventElapsedTime)(float *, void *, void *);
    int (*cublasCreate_v2)(void **);
    int (*cublasSetStream_v2)(void *, void *);
    int (*cublasSetWorkspace_v2)(void *, void *, size_t);
    int (*cublasGemmEx)(void *, int, int, int, int, int, const void *, const void *, int, int,
                        const void *, int, int, const void *, void *, int, int, int, int);
} toolkit;

typedef struct bench {
    toolkit t;
    void *stream, *blas, *begin, *end;
    void *x, *y, *space;
    uint8_t *random; /* BLOCK bytes of bf16 near 2^-7 */
    bool tiny;
} bench;

/* What went wrong, on stderr; the status to end with. */
static int refuse(const char *what, const char *why)
{
    fprintf(stderr, "gpu_cublas: %s: %s\n", what, why);
    return NOT_THERE;
}

static void *load(const char *name, const char *version)
{
    static const char *const folders[] = {"", "/usr/local/cuda/lib64/"};
    char path[128];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%slib%s.so%s", folders[i], name, version);
        void *found = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (found) return found;
    }
    return NULL;
}

/* Both libraries of one version. */
static bool load_toolkit(toolkit *t)
{
    static const char *const versions[][2] = {
        {".13", ".13"}, {".12", ".12"}, {".11.0", ".11"}, {"", ""}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        t->runtime = load("cudart", versions[i][0]);
        t->blas = load("cublas", versions[i][1]);
        if (t->runtime && t->blas) return true;
        if (t->runtime) dlclose(t->runtime);
        if (t->blas) dlclose(t->blas);
    }
    return false;
}

/* Sets the pointer at `to`; through bytes, since C has no conversion between the kinds. */
static bool find(void *library, const char *name, void *to)
{
    void *p = dlsym(library, name);
    memcpy(to, &p, sizeof p);
    return p != NULL;
}

#define RUNTIME(name) find(t->runtime, #name, &t->name)
#define BLAS(name)    find(t->blas, #name, &t->name)

static bool find_all(toolkit *t)
{
    return RUNTIME(cudaSetDevice) && RUNTIME(cudaMalloc) && RUNTIME(cudaFree) &&
           RUNTIME(cudaMemcpy) && RUNTIME(cudaGetErrorString) && RUNTIME(cudaStreamCreate) &&
           RUNTIME(cudaStreamSynchronize) && RUNTIME(cudaStreamBeginCapture) &&
           RUNTIME(cudaStreamEndCapture) && RUNTIME(cudaGraphInstantiateWithFlags) &&
           RUNTIME(cudaGraphLaunch) && RUNTIME(cudaGraphExecDestroy) && RUNTIME(cudaGraphDestroy) &&
           RUNTIME(cudaEventCreate) && RUNTIME(cudaEventRecord) && RUNTIME(cudaEventSynchronize) &&
           RUNTIME(cudaEventElapsedTime) && BLAS(cublasCreate_v2) && BLAS(cublasSetStream_v2) &&
           BLAS(cublasSetWorkspace_v2) && BLAS(cublasGemmEx);
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* n bytes on the device, random; NULL if they do not fit. */
static void *make_random(bench *b, size_t n)
{
    void *p = NULL;
    if (b->t.cudaMalloc(&p, n) != 0) return NULL;
    for (size_t at = 0; at < n; at += BLOCK)
        b->t.cudaMemcpy((char *)p + at, b->random, n - at < BLOCK ? n - at : BLOCK, TO_DEVICE);
    return p;
}

/* y [rows][n] = x [rows][k] W^T, W [n][k]: in cuBLAS's columns, W^T x. */
static int multiply(bench *b, const void *w, size_t n, size_t k, int rows)
{
    const float one = 1.0f, none = 0.0f;
    return b->t.cublasGemmEx(b->blas, OP_T, OP_N, (int)n, rows, (int)k, &one, w, R_16BF, (int)k,
                             b->x, R_16BF, (int)k, &none, b->y, R_16BF, (int)n, COMPUTE_32F,
                             ALGO_DEFAULT);
}

/* Weights of a shape, and the rows that meet them. */
typedef struct product {
    const shape *s;
    size_t n, bytes; /* outputs; bytes of weights */
    void *copies[MOST_COPIES];
    int n_copies, rows, launches;
} product;

static int record(bench *b, const product *p, void **exec)
{
    void *graph = NULL;
    int e = b->t.cudaStreamBeginCapture(b->stream, CAPTURE_RELAXED);
    for (int i = 0; i < p->launches && e == 0; i++)
        e = multiply(b, p->copies[i % p->n_copies], p->n, p->s->k, p->rows);
    const int ended = b->t.cudaStreamEndCapture(b->stream, &graph);
    if (e == 0) e = ended;
    if (e == 0) e = b->t.cudaGraphInstantiateWithFlags(exec, graph, 0);
    if (graph) b->t.cudaGraphDestroy(graph);
    return e;
}

/* Milliseconds of a recording. */
static int lap(bench *b, void *exec, float *ms)
{
    b->t.cudaEventRecord(b->begin, b->stream);
    const int e = b->t.cudaGraphLaunch(exec, b->stream);
    b->t.cudaEventRecord(b->end, b->stream);
    b->t.cudaEventSynchronize(b->end);
    return e ? e : b->t.cudaEventElapsedTime(ms, b->begin, b->end);
}

static int time_record(bench *b, void *exec, float *ms)
{
    float laps[ROUNDS], spent = 0.0f;
    int e = 0;
    for (int i = 0; i < MOST_WARM && spent < 1e3f * (float)WARM_S && e == 0; i++) {
        e = lap(b, exec, &laps[0]);
        spent += laps[0];
    }
    for (int i = 0; i < ROUNDS && e == 0; i++) e = lap(b, exec, &laps[i]);
    if (e != 0) return e;
    qsort(laps, ROUNDS, sizeof *laps, by_size);
    *ms = laps[ROUNDS / 2];
    return 0;
}

/* Seconds of one product, the median; below 0 where it failed. */
static double time_rows(bench *b, const product *p)
{
    float ms = 0.0f;
    void *exec = NULL;
    int e = multiply(b, p->copies[0], p->n, p->s->k, p->rows); /* chooses and loads its kernel */
    if (e == 0) e = record(b, p, &exec);
    if (e == 0) e = time_record(b, exec, &ms);
    if (exec) b->t.cudaGraphExecDestroy(exec);
    return e == 0 ? (double)ms * 1e-3 / p->launches : -1.0;
}

static int measure_rows(bench *b, product *p)
{
    const shape *s = p->s;
    p->launches = shape_launches(s, p->rows, (double)p->bytes, p->n_copies, b->tiny);
    const double seconds = time_rows(b, p);
    if (seconds <= 0.0) return refuse(s->name, "a product failed");
    printf("%s,%zu,%zu,%d,%.3f,%.1f,%.2f\n", s->name, s->n, s->k, p->rows, seconds * 1e6,
           (double)p->bytes / seconds * 1e-9,
           2.0 * (double)p->n * (double)s->k * p->rows / seconds * 1e-12);
    return 0;
}

static int measure_shape(bench *b, const shape *s)
{
    product p = {.s = s, .n = s->gated ? 2 * s->n : s->n};
    p.bytes = p.n * s->k * 2;
    const int copies = shape_copies((double)p.bytes, b->tiny);
    int status = 0;
    while (p.n_copies < copies && (p.copies[p.n_copies] = make_random(b, p.bytes)) != NULL)
        p.n_copies++;
    if (p.n_copies < copies) status = refuse(s->name, "no memory on the device");
    for (size_t i = 0; i < sizeof shape_rows / sizeof *shape_rows && status == 0; i++) {
        p.rows = shape_rows[i];
        if (shape_has_rows(s, p.rows, b->tiny)) status = measure_rows(b, &p);
    }
    for (int i = 0; i < p.n_copies; i++) b->t.cudaFree(p.copies[i]);
    return status;
}

static int open_bench(bench *b, int index)
{
    if (!load_toolkit(&b->t)) return refuse("cuBLAS", "no libcudart and libcublas here");
    if (!find_all(&b->t)) return refuse("cuBLAS", "its libraries lack a function");
    int e = b->t.cudaSetDevice(index);
    if (e == 0) e = b->t.cudaStreamCreate(&b->stream);
    if (e == 0) e = b->t.cudaEventCreate(&b->begin);
    if (e == 0) e = b->t.cudaEventCreate(&b->end);
    if (e == 0) e = b->t.cudaMalloc(&b->space, WORKSPACE);
    if (e != 0) return refuse("CUDA", b->t.cudaGetErrorString(e));
    if (b->t.cublasCreate_v2(&b->blas) != 0) return refuse("cuBLAS", "it does not start");
    b->t.cublasSetStream_v2(b->blas, b->stream);
    b->t.cublasSetWorkspace_v2(b->blas, b->space, WORKSPACE);
    b->x = make_random(b, (size_t)MOST_ROWS * 18944 * 2);
    b->y = make_random(b, (size_t)MOST_ROWS * 2 * 18944 * 2);
    return b->x && b->y ? 0 : refuse("CUDA", "no memory on the device");
}

static bool make_block(bench *b)
{
    uint64_t v = 88172645463325252u;
    b->random = malloc(BLOCK);
    if (!b->random) return false;
    for (size_t i = 0; i < BLOCK; i += 8) {
        v ^= v << 13, v ^= v >> 7, v ^= v << 17;
        const uint64_t near = (v & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u;
        memcpy(b->random + i, &near, 8);
    }
    return true;
}

int main(int argc, char **argv)
{
    bench b = {.tiny = argc > 1 && strcmp(argv[1], "--tiny") == 0};
    const int index = argc > 1 + b.tiny ? atoi(argv[1 + b.tiny]) : 0;
    const shape *shapes = b.tiny ? tiny_shapes : real_shapes;
    const size_t n = b.tiny ? sizeof tiny_shapes / sizeof *tiny_shapes
                            : sizeof real_shapes / sizeof *real_shapes;
    if (!make_block(&b)) return refuse("host", "no memory");
    int status = open_bench(&b, index);
    for (size_t i = 0; i < n && status == 0; i++) status = measure_shape(&b, &shapes[i]);
    free(b.random);
    return status; /* the device's memory goes with the process */
}
