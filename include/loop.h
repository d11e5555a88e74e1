/* loop: one epoll, edge-triggered; the only caller of epoll_ctl. There is one loop a process.
 * A turn: wait; note what the kernel says; timers; every fd on the ready list once; deferred calls; the graveyard. */
#ifndef LOOP_H
#define LOOP_H
#include "list.h"
#include "str.h"

enum loop_bit {
    LOOP_READABLE = 1, /* sticky: holds until a read found nothing more (conn clears it) */
    LOOP_WRITABLE = 2, /* sticky: holds until a write was short */
    LOOP_HUP = 4,      /* the peer closed its sending side, or the socket is in error: reads must go on to END or FAIL */
};

/* A descriptor in the loop; embedded in its owner. */
struct loop_fd {
    struct list link;                /* on the ready list */
    void (*ready)(struct loop_fd *); /* called once a turn while on the list; set by the owner, may be changed */
    int fd;
    uint8_t bits;
};

/* A call at the end of the turn; embedded in its owner. Setting it twice a turn calls it once. */
struct loop_task {
    struct list link;
    void (*run)(struct loop_task *);
};

const char *loop_open(void); /* NULL, or what failed */
void loop_close(void);
/* Registers fd once, for everything, edge-triggered. A fresh socket counts as writable at once. False with errno if refused.
 * module: whose `ready` that is, a literal; at debug a call of it that takes over 5 ms is logged under that name. */
bool loop_add(struct loop_fd *io, int fd, void (*ready)(struct loop_fd *), const char *module);
void loop_remove(struct loop_fd *io); /* before close(2); off the ready list too. Harmless twice */
/* On the ready list: `ready` is called in the next turn (this one's list is fixed). */
void loop_ready(struct loop_fd *io);
/* The same, before all who had their turn in this one: for who did nothing because it was late. */
void loop_yield(struct loop_fd *io);

void loop_task_init(struct loop_task *t, void (*run)(struct loop_task *));
void loop_defer(struct loop_task *t);
void loop_undefer(struct loop_task *t);

/* Memory dies at the end of the turn: release(ptr) is called then. */
void loop_bury(void *ptr, void (*release)(void *));

/* True: this turn has taken LOOP_LATE_US. Who has bulk to move (64 KB and more) lets the others have theirs and goes on in the next
 * turn: by loop_yield who has done nothing in this one, by loop_ready who has. So bulk never starves. */
#define LOOP_LATE_US 500
bool loop_late(void);

void loop_run(void);             /* until loop_stop */
void loop_turn(int max_wait_ms); /* one turn, waiting at most so long; -1 = until something is due */
void loop_stop(void);

/* Time from wake to next wait, as counted in buckets of 2^n µs: n-th bucket is < 2^n µs, the last is everything above. */
#define LOOP_BUSY_BUCKETS 24
struct loop_stats {
    uint64_t turns, busy_us, busy[LOOP_BUSY_BUCKETS], longest_us;
};
const struct loop_stats *loop_stats(void);
#endif
