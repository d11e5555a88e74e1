/* timer: deadlines in a heap. Moving a deadline later, or cancelling it, costs nothing: the heap learns of it when it fires.
 * One process, one heap (there is one loop). */
#ifndef TIMER_H
#define TIMER_H
#include "str.h"

#define TIMER_NEVER INT64_MAX

struct timer {
    int64_t when;                 /* the deadline wanted, clock_ms; TIMER_NEVER = none */
    uint32_t slot;                /* 1 + place in the heap, 0 = not in it */
    void (*fire)(struct timer *); /* set once by the owner before the first timer_set */
};

void timer_init(struct timer *t, void (*fire)(struct timer *));
void timer_set(struct timer *t, int64_t when); /* absolute, clock_ms; TIMER_NEVER or earlier or later than before */
void timer_drop(struct timer *t);              /* out of the heap for good: before the owner's memory goes */
int64_t timer_next(void);                      /* when the heap wants to be looked at; TIMER_NEVER if empty */
/* Calls fire for every timer due at `now`. A timer is out of the heap, its `when` NEVER, when its fire is called; due ones are
 * collected first, so a fire that sets its timer to "now" is called in the next run, and one that drops another's is obeyed. */
void timer_run(int64_t now);
#endif
