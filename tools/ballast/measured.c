/* SPDX-License-Identifier: MIT
 * The child says how it went through a pipe; what it took, the system says when it is gone. */
#include "measured.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

static double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

/* A status and its sentence are less than a pipe takes at once. */
static void run_child(int to, const char *model, const char *out, const bal_quant_opts *opts)
{
    bal_error said = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody is left to read it once the caller is killed */
    said.status = bal_quantize(model, out, opts, &said);
    const ssize_t n = write(to, &said, sizeof said);
    _exit(n == (ssize_t)sizeof said ? 0 : 1);
}

/* What the child said; nothing where it was ended from outside. */
static bool hear(int from, bal_error *said)
{
    char *at = (char *)said;
    size_t left = sizeof *said;
    while (left) {
        const ssize_t n = read(from, at, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        left -= (size_t)n;
    }
    return true;
}

static bal_status wait_for(pid_t child, int from, struct rusage *use, bal_error *err)
{
    bal_error said;
    int status;
    const bool heard = hear(from, &said);
    while (wait4(child, &status, 0, use) < 0)
        if (errno != EINTR) return bal_fail(err, BAL_E_IO, "wait: %s", strerror(errno));
    if (heard) {
        if (said.status < 0) *err = said;
        return said.status;
    }
    return bal_fail(err, BAL_E_IO, "the quantizing process was ended by signal %d (%s)",
                    WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                    WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "none");
}

bal_status bal_quantize_measured(const char *model, const char *out, const bal_quant_opts *opts,
                                 bal_cost *cost, bal_error *err)
{
    int ends[2];
    struct rusage use = {0};
    const double start = clock_s();
    if (pipe(ends) != 0) return bal_fail(err, BAL_E_IO, "pipe: %s", strerror(errno));
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        run_child(ends[1], model, out, opts);
    }
    close(ends[1]);
    const bal_status st = child < 0 ? bal_fail(err, BAL_E_IO, "fork: %s", strerror(errno))
                                    : wait_for(child, ends[0], &use, err);
    close(ends[0]);
    *cost = (bal_cost){.seconds = clock_s() - start,
                       .cpu_seconds = seconds_of(use.ru_utime) + seconds_of(use.ru_stime),
                       .mb = (double)use.ru_maxrss * 1024.0 / 1e6};
    return st;
}
