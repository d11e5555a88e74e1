/* timer: a binary heap of deadlines, re-armed lazily.
 * In: timers with a wish. Out: calls of `fire`. Owns the heap's array; timers are their owners'.
 *
 * A busy connection moves its deadline with every byte. So only `when` is written; the heap keeps the older, earlier key, and
 * when that comes up the timer is put back at its wish instead of fired. Only moving a deadline earlier costs a sift. One that wants
 * nothing more stays in the heap too, until its key comes up or the heap is full. */
#include "timer.h"

#include <assert.h>
#include <stdlib.h>

struct entry {
    int64_t key;
    struct timer *timer;
};

static struct entry *heap;
static uint32_t count, room;
static struct timer **due; /* collected by timer_run; NULL where dropped since */
static uint32_t ndue, due_room;

static void place(uint32_t i, struct entry e) {
    heap[i] = e;
    e.timer->slot = i + 1;
}

static void sift_up(uint32_t i, struct entry e) {
    while (i && heap[(i - 1) / 2].key > e.key) {
        place(i, heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(i, e);
}

static void sift_down(uint32_t i, struct entry e) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= e.key) break;
        place(i, heap[child]);
        i = child;
    }
    place(i, e);
}

static void take_out(uint32_t i) {
    heap[i].timer->slot = 0;
    struct entry last = heap[--count];
    if (i == count) return;
    if (i && heap[(i - 1) / 2].key > last.key)
        sift_up(i, last);
    else
        sift_down(i, last);
}

/* Throws out those that want nothing any more; grows only where that does not free a quarter. */
static void make_room(void) {
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct entry e = heap[i];
        e.timer->slot = 0;
        if (e.timer->when != TIMER_NEVER) place(wanted++, e);
    }
    count = wanted;
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(i, heap[i]);
    if (count <= room - room / 4 && room) return;
    room = room ? 2 * room : 64;
    heap = must_realloc(heap, room * sizeof *heap);
}

static void put_in(struct timer *t) {
    if (count == room) make_room();
    count++;
    sift_up(count - 1, (struct entry){t->when, t});
}

void timer_init(struct timer *t, void (*fire)(struct timer *)) {
    *t = (struct timer){TIMER_NEVER, 0, fire};
}

void timer_set(struct timer *t, int64_t when) {
    t->when = when;
    if (when == TIMER_NEVER) return;
    if (!t->slot)
        put_in(t);
    else if (when < heap[t->slot - 1].key)
        sift_up(t->slot - 1, (struct entry){when, t});
}

void timer_drop(struct timer *t) {
    t->when = TIMER_NEVER;
    if (t->slot) take_out(t->slot - 1);
    for (uint32_t i = 0; i < ndue; i++)
        if (due[i] == t) due[i] = NULL;
}

int64_t timer_next(void) {
    return count ? heap[0].key : TIMER_NEVER;
}

void timer_run(int64_t now) {
    assert(ndue == 0);
    while (count && heap[0].key <= now) {
        struct timer *t = heap[0].timer;
        take_out(0);
        if (t->when > now) {
            if (t->when != TIMER_NEVER) put_in(t);
            continue;
        }
        if (ndue == due_room) {
            due_room = due_room ? 2 * due_room : 64;
            due = must_realloc(due, due_room * sizeof(struct timer *));
        }
        due[ndue++] = t;
    }
    for (uint32_t i = 0; i < ndue; i++) {
        struct timer *t = due[i];
        if (!t) continue;
        due[i] = NULL;
        if (t->when > now) continue; /* an earlier one of this run moved it; timer_set has put it back */
        t->when = TIMER_NEVER;
        t->fire(t);
    }
    ndue = 0;
}
