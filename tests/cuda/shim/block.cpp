// SPDX-License-Identifier: MIT
#include "block.h"
#include "fiber.h"
#include "shim.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED_BY_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_BY_ASAN 1
#endif
#endif
#ifndef WATCHED_BY_ASAN
#define WATCHED_BY_ASAN 0
#endif

namespace
{

enum class state { ready, at_barrier, at_collective, at_grid_wait, done };

struct copy {
    void *to;
    const void *from;
};

struct thread {
    bal_fiber fiber;
    bal_shim_place here;
    state is = state::ready;
    std::vector<copy> copies;    /* under way, oldest first */
    std::vector<size_t> commits; /* how many copies each open group ends behind */
};

/* A meeting of a warp's lanes. */
struct meeting {
    unsigned arrived = 0;
    const char *file = nullptr;
    int line = 0;
    void *lanes[32];
};

} // namespace

struct bal_shim_block {
    const bal_shim_kernel *kernel;
    std::vector<thread> threads;
    std::vector<meeting> warps;
    std::vector<unsigned> ready;
    unsigned char *shared;
    unsigned at_barrier = 0, done = 0;
    const char *file = nullptr; /* of the barrier */
    int line = 0;
    bool released = false; /* past bal_grid_wait */

    bal_shim_block(const bal_shim_kernel *k, unsigned index);
    ~bal_shim_block();
};

const bal_shim_place *bal_shim_here;

namespace
{

bal_shim_block *block_now;
thread *thread_now;
uint64_t random_state = 0x9e3779b97f4a7c15u;
uint64_t n_collectives;
bool truncate_sums;
char fault_text[512];
bool fault_set;

void leave(state s)
{
    thread_now->is = s;
    bal_fiber_leave(&thread_now->fiber, s == state::done);
}

void thread_body()
{
    bal_fiber_begin();
    block_now->kernel->thread();
    if (!thread_now->copies.empty())
        bal_shim_fault("thread %u of block %u ends with an asynchronous copy under way",
                       bal_shim_here->thread.x, bal_shim_here->block.x);
    leave(state::done);
}

void wake(bal_shim_block *b, unsigned i)
{
    b->threads[i].is = state::ready;
    b->ready.push_back(i);
}

void step(bal_shim_block *b)
{
    const size_t pick = bal_shim_random() % b->ready.size();
    const unsigned i = b->ready[pick];
    b->ready[pick] = b->ready.back();
    b->ready.pop_back();
    block_now = b;
    thread_now = &b->threads[i];
    bal_shim_here = &thread_now->here;
    bal_fiber_enter(&thread_now->fiber);
    if (thread_now->is == state::done) b->done++;
    block_now = nullptr;
    thread_now = nullptr;
    bal_shim_here = nullptr;
}

/* Why nobody can go on. */
void tell_deadlock(const bal_shim_block *b)
{
    const unsigned n = (unsigned)b->threads.size();
    for (unsigned w = 0; w < b->warps.size(); w++) {
        const meeting &m = b->warps[w];
        if (!m.arrived) continue;
        bal_shim_fault("divergent warp: %u of 32 lanes of warp %u wait at %s:%d for the others",
                       m.arrived, w, m.file, m.line);
        return;
    }
    if (b->at_barrier)
        bal_shim_fault("divergent barrier: %u of %u threads wait at %s:%d, %u have ended",
                       b->at_barrier, n, b->file, b->line, b->done);
    else
        bal_shim_fault("some threads wait at bal_grid_wait, others have ended or wait elsewhere");
}

/* Until all threads are done or wait for the grid in front. */
void run(bal_shim_block *b)
{
    const unsigned n = (unsigned)b->threads.size();
    while (!b->ready.empty() && !fault_set) step(b);
    if (fault_set || b->done == n) return;
    unsigned waiting = 0;
    for (const thread &t : b->threads) waiting += t.is == state::at_grid_wait;
    if (waiting + b->done != n) tell_deadlock(b);
}

void release(bal_shim_block *b)
{
    b->released = true;
    for (unsigned i = 0; i < b->threads.size(); i++)
        if (b->threads[i].is == state::at_grid_wait) wake(b, i);
}

std::vector<unsigned> shuffled(unsigned n)
{
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; i++) {
        const unsigned j = (unsigned)(bal_shim_random() % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

constexpr size_t watched = 64; /* bytes beside an allocation */

} // namespace

bal_shim_block::bal_shim_block(const bal_shim_kernel *k, unsigned index)
    : kernel(k), threads(k->threads), warps(k->threads / 32),
      shared((unsigned char *)bal_shim_alloc(k->shared))
{
    for (unsigned i = 0; i < k->threads; i++) {
        const dim3 g = k->grid;
        threads[i].here = {
            dim3(i),          dim3(index % g.x, index / g.x % g.y, index / g.x / g.y),
            dim3(k->threads), g,
            i % 32,           shared};
        bal_fiber_make(&threads[i].fiber, thread_body);
        ready.push_back(i);
    }
}

bal_shim_block::~bal_shim_block()
{
    for (thread &t : threads) bal_fiber_free(&t.fiber);
    if (!bal_shim_release(shared, kernel->shared))
        bal_shim_fault("a block wrote beside its %zu bytes of shared memory", kernel->shared);
}

/* Blocks that begin before their kernel may: two kernels' worth of fibers, each a mapping and a
 * guard page, must stay below what Linux maps for a process. */
static constexpr size_t begun_most = 32;

void bal_shim_kernel_begin(bal_shim_kernel *k)
{
    for (unsigned index : shuffled(k->grid.x * k->grid.y * k->grid.z)) {
        if (k->begun.size() == begun_most || fault_set) return;
        auto b = std::make_shared<bal_shim_block>(k, index);
        k->begun[index] = b;
        run(b.get());
    }
}

void bal_shim_kernel_run(bal_shim_kernel *k)
{
    for (unsigned index : shuffled(k->grid.x * k->grid.y * k->grid.z)) {
        if (fault_set) break;
        std::shared_ptr<bal_shim_block> b = k->begun[index];
        k->begun.erase(index);
        if (!b) b = std::make_shared<bal_shim_block>(k, index);
        release(b.get());
        run(b.get());
    }
    k->begun.clear();
}

/* ---- Faults, order, memory --------------------------------------------------------------------
 */

void bal_shim_fault(const char *format, ...)
{
    if (!fault_set) {
        va_list args;
        va_start(args, format);
        vsnprintf(fault_text, sizeof fault_text, format, args);
        va_end(args);
        fault_set = true;
    }
    if (thread_now) leave(state::done);
}

bool bal_shim_faulty()
{
    return fault_set;
}

const char *bal_shim_take_fault()
{
    static char text[sizeof fault_text];
    if (!fault_set) return nullptr;
    memcpy(text, fault_text, sizeof text);
    fault_set = false;
    return text;
}

void bal_shim_seed(uint64_t seed)
{
    random_state = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
}

uint64_t bal_shim_random()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 11;
}

void *bal_shim_alloc(size_t n_bytes)
{
    const size_t extra = WATCHED_BY_ASAN ? 0 : watched;
    void *p = nullptr;
    if (posix_memalign(&p, 256, n_bytes + extra + !n_bytes)) return nullptr;
    memset(p, 0xff, n_bytes);
    memset((char *)p + n_bytes, 0x5a, extra);
    return p;
}

bool bal_shim_release(void *p, size_t n_bytes)
{
    bool whole = true;
    if (!WATCHED_BY_ASAN)
        for (size_t i = 0; i < watched; i++) whole &= ((unsigned char *)p)[n_bytes + i] == 0x5a;
    free(p);
    return whole;
}

uint64_t bal_shim_collectives()
{
    return n_collectives;
}

void bal_shim_mma_truncate(bool on)
{
    truncate_sums = on;
}

/* ---- Barriers and collectives -----------------------------------------------------------------
 */

void bal_shim_barrier(const char *file, int line)
{
    bal_shim_block *b = block_now;
    if (b->at_barrier && (b->line != line || b->file != file)) {
        bal_shim_fault("divergent barrier: threads of block %u wait at %s:%d and at line %d",
                       bal_shim_here->block.x, b->file, b->line, line);
        return;
    }
    b->file = file;
    b->line = line;
    if (++b->at_barrier < b->threads.size()) {
        leave(state::at_barrier);
        return;
    }
    b->at_barrier = 0;
    for (unsigned i = 0; i < b->threads.size(); i++)
        if (b->threads[i].is == state::at_barrier) wake(b, i);
}

void bal_shim_meet(unsigned mask, void (*all)(void **lanes), void *mine, const char *file, int line)
{
    if (mask != 0xffffffffu)
        bal_shim_fault("%s:%d: a warp collective that names only lanes %08x", file, line, mask);
    const unsigned warp = bal_shim_here->thread.x / 32;
    meeting &m = block_now->warps[warp];
    if (m.arrived && (m.line != line || m.file != file))
        bal_shim_fault("divergent warp: lanes of warp %u meet at %s:%d and at line %d", warp,
                       m.file, m.line, line);
    m.file = file;
    m.line = line;
    m.lanes[bal_shim_here->lane] = mine;
    if (++m.arrived < 32) {
        leave(state::at_collective);
        return;
    }
    m.arrived = 0;
    n_collectives++;
    all(m.lanes);
    for (unsigned i = 0; i < 32; i++)
        if (block_now->threads[32 * warp + i].is == state::at_collective)
            wake(block_now, 32 * warp + i);
}

void bal_grid_wait()
{
    if (!block_now->released) leave(state::at_grid_wait);
}

namespace
{

struct shuffle_lane {
    uint32_t in, out;
    unsigned from;
};

void shuffle_all(void **lanes)
{
    for (int i = 0; i < 32; i++) {
        auto *l = (shuffle_lane *)lanes[i];
        l->out = ((shuffle_lane *)lanes[l->from & 31])->in;
    }
}

void ballot_all(void **lanes)
{
    uint32_t votes = 0;
    for (int i = 0; i < 32; i++) votes |= ((shuffle_lane *)lanes[i])->in << i;
    for (int i = 0; i < 32; i++) ((shuffle_lane *)lanes[i])->out = votes;
}

} // namespace

uint32_t bal_shim_shuffle(unsigned mask, uint32_t v, unsigned from, const char *file, int line)
{
    shuffle_lane l = {v, 0, from};
    bal_shim_meet(mask, shuffle_all, &l, file, line);
    return l.out;
}

uint32_t bal_shim_ballot(unsigned mask, bool p, const char *file, int line)
{
    shuffle_lane l = {p, 0, 0};
    bal_shim_meet(mask, ballot_all, &l, file, line);
    return l.out;
}

/* ---- Matrices ---------------------------------------------------------------------------------
 */

namespace
{

struct mma_lane {
    void *d;
    const uint32_t *a, *b;
    const void *c;
};

float of_f16(uint16_t h)
{
    static float *table;
    if (!table) {
        static float values[65536];
        for (unsigned i = 0; i < 65536; i++) values[i] = bal_f16_to_f32((uint16_t)i);
        table = values;
    }
    return table[h];
}

/* a + b, rounded toward zero. */
float add_truncated(float a, double b)
{
    const double sum = (double)a + b;
    float r = (float)sum;
    if (fabs((double)r) > fabs(sum)) r = nextafterf(r, 0);
    return r;
}

/* Row of element e of register r of a lane's C or D, and its column. */
int row_of(int lane, int r)
{
    return lane / 4 + (r & 2 ? 8 : 0);
}

int column_of(int lane, int r)
{
    return lane % 4 * 2 + (r & 1);
}

template <float (*widen)(uint16_t)> void mma_float(void **lanes)
{
    double a[16][16], b[16][8], sums[16][8] = {};
    for (int l = 0; l < 32; l++) {
        const auto *m = (const mma_lane *)lanes[l];
        for (int e = 0; e < 8; e++)
            a[row_of(l, e / 2 & 1 ? 2 : 0)][column_of(l, e & 1) + (e & 4 ? 8 : 0)] =
                (double)widen((uint16_t)(m->a[e / 2] >> 16 * (e & 1)));
        for (int e = 0; e < 4; e++)
            b[column_of(l, e & 1) + (e & 2 ? 8 : 0)][l / 4] =
                (double)widen((uint16_t)(m->b[e / 2] >> 16 * (e & 1)));
    }
    if (!truncate_sums)
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++)
                for (int j = 0; j < 8; j++) sums[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < 32; l++) {
        const auto *m = (const mma_lane *)lanes[l];
        for (int r = 0; r < 4; r++) {
            const int i = row_of(l, r), j = column_of(l, r);
            float sum = ((const float *)m->c)[r];
            if (truncate_sums)
                for (int k = 0; k < 16; k++) sum = add_truncated(sum, a[i][k] * b[k][j]);
            else
                sum = (float)(sums[i][j] + (double)sum);
            ((float *)m->d)[r] = sum;
        }
    }
}

void mma_bytes(void **lanes)
{
    int a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        const auto *m = (const mma_lane *)lanes[l];
        for (int e = 0; e < 16; e++)
            a[row_of(l, e / 4 & 1 ? 2 : 0)][l % 4 * 4 + e % 4 + (e & 8 ? 16 : 0)] =
                (uint8_t)(m->a[e / 4] >> 8 * (e % 4));
        for (int e = 0; e < 8; e++)
            b[l % 4 * 4 + e % 4 + (e & 4 ? 16 : 0)][l / 4] = (int8_t)(m->b[e / 4] >> 8 * (e % 4));
    }
    for (int l = 0; l < 32; l++) {
        const auto *m = (const mma_lane *)lanes[l];
        for (int r = 0; r < 4; r++) {
            int sum = ((const int *)m->c)[r];
            for (int k = 0; k < 32; k++) sum += a[row_of(l, r)][k] * b[k][column_of(l, r)];
            ((int *)m->d)[r] = sum;
        }
    }
}

struct ldmatrix_lane {
    uint32_t *r;
    const uint16_t *row;
};

template <bool transposed> void ldmatrix_all(void **lanes)
{
    for (int l = 0; l < 32; l++)
        for (int j = 0; j < 4; j++) {
            const auto row = [&](int i) { return ((ldmatrix_lane *)lanes[8 * j + i])->row; };
            const int g = l / 4, t = l % 4 * 2;
            const uint32_t lo = transposed ? row(t)[g] : row(g)[t];
            const uint32_t hi = transposed ? row(t + 1)[g] : row(g)[t + 1];
            ((ldmatrix_lane *)lanes[l])->r[j] = hi << 16 | lo;
        }
}

bool in_shared(const void *p, size_t n)
{
    const auto at = (const unsigned char *)p;
    return at >= block_now->shared && at + n <= block_now->shared + block_now->kernel->shared &&
           (uintptr_t)p % 16 == 0;
}

} // namespace

void bal_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                 const char *file, int line)
{
    mma_lane l = {d, a, b, c};
    bal_shim_meet(0xffffffffu, mma_float<of_f16>, &l, file, line);
}

void bal_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                  const char *file, int line)
{
    mma_lane l = {d, a, b, c};
    bal_shim_meet(0xffffffffu, mma_float<bal_bf16_to_f32>, &l, file, line);
}

void bal_mma_u8s8(int d[4], const uint32_t a[4], const uint32_t b[2], const int c[4],
                  const char *file, int line)
{
    mma_lane l = {d, a, b, c};
    bal_shim_meet(0xffffffffu, mma_bytes, &l, file, line);
}

void bal_ldmatrix_x4(uint32_t r[4], const void *shared, const char *file, int line)
{
    if (!in_shared(shared, 16))
        bal_shim_fault("%s:%d: ldmatrix outside of shared memory", file, line);
    ldmatrix_lane l = {r, (const uint16_t *)shared};
    bal_shim_meet(0xffffffffu, ldmatrix_all<false>, &l, file, line);
}

void bal_ldmatrix_x4_trans(uint32_t r[4], const void *shared, const char *file, int line)
{
    if (!in_shared(shared, 16))
        bal_shim_fault("%s:%d: ldmatrix outside of shared memory", file, line);
    ldmatrix_lane l = {r, (const uint16_t *)shared};
    bal_shim_meet(0xffffffffu, ldmatrix_all<true>, &l, file, line);
}

/* ---- Asynchronous copies ----------------------------------------------------------------------
 */

void bal_cp_async16(void *shared, const void *global)
{
    if (!in_shared(shared, 16)) {
        bal_shim_fault("thread %u of block %u: cp.async outside of shared memory or unaligned",
                       bal_shim_here->thread.x, bal_shim_here->block.x);
        return;
    }
    if ((uintptr_t)global % 16) {
        bal_shim_fault("thread %u of block %u: cp.async from an unaligned address",
                       bal_shim_here->thread.x, bal_shim_here->block.x);
        return;
    }
    memset(shared, 0xff, 16);
    thread_now->copies.push_back({shared, global});
}

void bal_cp_commit()
{
    thread_now->commits.push_back(thread_now->copies.size());
}

void bal_shim_cp_wait(int n)
{
    thread *t = thread_now;
    if (t->commits.size() <= (size_t)n) return;
    const size_t closed = t->commits.size() - (size_t)n, end = t->commits[closed - 1];
    for (size_t i = 0; i < end; i++) memcpy(t->copies[i].to, t->copies[i].from, 16);
    t->copies.erase(t->copies.begin(), t->copies.begin() + (ptrdiff_t)end);
    t->commits.erase(t->commits.begin(), t->commits.begin() + (ptrdiff_t)closed);
    for (size_t &c : t->commits) c -= end;
}
