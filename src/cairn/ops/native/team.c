/* The threads of one call, and where they wait for each other.
 *
 * A call has one parallel region, and threads meet in it: waking them for every step would cost as
 * much as the step. Who waits looks for a while and then sleeps: without sleep a thread would keep
 * the core from the one that it waits for, where other programs want cores as well.
 */

#ifndef CAIRN_TEAM_C
#define CAIRN_TEAM_C

#include <sched.h>

#include "vector.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define LOOKS 1000 /* before a thread sleeps: about as many times 50 ns */

/* OpenMP's, declared here since its header comes with some compilers only. */
int omp_get_thread_num(void);
int omp_get_num_threads(void);

typedef struct {
    uint32_t arrived ALIGNED;
    uint32_t round ALIGNED; /* rises when all have arrived */
    uint32_t asleep;
} Team;

/* One thread of a team: its number, and of how many. OpenMP may give fewer than were asked for. */
typedef struct {
    Team *team;
    ptrdiff_t part, parts;
} Worker;

static Worker worker_of(Team *team)
{
    return (Worker){team, omp_get_thread_num(), omp_get_num_threads()};
}

INLINE void look_again(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static void sleep_in(Team *team, uint32_t round)
{
#ifdef __linux__
    syscall(SYS_futex, &team->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
#else
    (void)team, (void)round;
    sched_yield();
#endif
}

static void wake_all(Team *team)
{
#ifdef __linux__
    syscall(SYS_futex, &team->round, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    (void)team;
#endif
}

#define ASKED_A_LOOK 256 /* bytes */

/* Returns when all workers of the team have come here; what they wrote before is seen. Meanwhile
 * some of `early` is asked for. */
static void meet_asking(const Worker *w, Early *early)
{
    Team *team = w->team;
    uint32_t round = __atomic_load_n(&team->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == (uint32_t)w->parts) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&team->asleep, __ATOMIC_SEQ_CST)) wake_all(team);
        return;
    }
    for (int i = 0; i < LOOKS; i++) {
        if (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) != round) return;
        ask_some(early, ASKED_A_LOOK);
        look_again();
    }
    /* Either the last to come sees that someone sleeps, or the kernel sees the new round. */
    __atomic_add_fetch(&team->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&team->round, __ATOMIC_SEQ_CST) == round) sleep_in(team, round);
    __atomic_sub_fetch(&team->asleep, 1, __ATOMIC_SEQ_CST);
}

static void meet(const Worker *w)
{
    Early nothing = {NULL, 0};
    meet_asking(w, &nothing);
}

#endif
