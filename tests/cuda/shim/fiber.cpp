// SPDX-License-Identifier: MIT
#include "fiber.h"

#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#ifndef FIBER_ASAN
#define FIBER_ASAN 0
#endif

#if FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace
{

constexpr size_t stack_bytes = FIBER_ASAN ? 256 << 10 : 64 << 10;

std::vector<void *> &pool()
{
    static std::vector<void *> stacks;
    return stacks;
}

void *stack_take()
{
    if (!pool().empty()) {
        void *p = pool().back();
        pool().pop_back();
        return p;
    }
    void *p =
        mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    mprotect(p, 4096, PROT_NONE);
    return p;
}

void *main_context;
const void *main_stack;
size_t main_stack_bytes;

/* AddressSanitizer wants to know before and behind each switch. */
void leaving(void **shadow, const void *stack, size_t n)
{
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(shadow, stack, n);
#else
    (void)shadow, (void)stack, (void)n;
#endif
}

void arrived(void *shadow, const void **from, size_t *n)
{
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(shadow, from, n);
#else
    (void)shadow, (void)from, (void)n;
#endif
}

} // namespace

#ifdef __x86_64__

extern "C" void bal_fiber_switch(void **save, void *load);
asm(R"(
.text
.globl bal_fiber_switch
.type bal_fiber_switch, @function
bal_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size bal_fiber_switch, .-bal_fiber_switch
)");

static void make_context(bal_fiber *f, void (*body)())
{
    /* six registers, the address to return to, and one word so that the stack is 16-aligned as
     * behind a call */
    auto *top = (void **)((char *)f->stack + f->stack_bytes) - 8;
    for (int i = 0; i < 8; i++) top[i] = nullptr;
    top[6] = (void *)(uintptr_t)body;
    f->context = top;
}

static void free_context(bal_fiber *)
{
}

static void to_fiber(bal_fiber *f)
{
    bal_fiber_switch(&main_context, f->context);
}

static void to_main(bal_fiber *f)
{
    bal_fiber_switch(&f->context, main_context);
}

#else

static void make_context(bal_fiber *f, void (*body)())
{
    auto *c = new ucontext_t;
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = f->stack_bytes;
    c->uc_link = nullptr;
    makecontext(c, body, 0);
    f->context = c;
}

static void free_context(bal_fiber *f)
{
    delete (ucontext_t *)f->context;
}

static void to_fiber(bal_fiber *f)
{
    static ucontext_t here;
    main_context = &here;
    swapcontext(&here, (ucontext_t *)f->context);
}

static void to_main(bal_fiber *f)
{
    swapcontext((ucontext_t *)f->context, (ucontext_t *)main_context);
}

#endif

void bal_fiber_make(bal_fiber *f, void (*body)())
{
    f->stack = stack_take();
    f->stack_bytes = stack_bytes;
    f->shadow = nullptr;
#if FIBER_ASAN
    /* what an abandoned fiber left marked there */
    __asan_unpoison_memory_region((char *)f->stack + 4096, stack_bytes - 4096);
#endif
    make_context(f, body);
}

void bal_fiber_free(bal_fiber *f)
{
    free_context(f);
    pool().push_back(f->stack);
    f->stack = nullptr;
}

void bal_fiber_enter(bal_fiber *f)
{
    void *shadow = nullptr;
    leaving(&shadow, f->stack, f->stack_bytes);
    to_fiber(f);
    arrived(shadow, nullptr, nullptr);
}

void bal_fiber_leave(bal_fiber *f, bool last)
{
    leaving(last ? nullptr : &f->shadow, main_stack, main_stack_bytes);
    to_main(f);
    arrived(f->shadow, &main_stack, &main_stack_bytes);
}

void bal_fiber_begin()
{
    arrived(nullptr, &main_stack, &main_stack_bytes);
}
