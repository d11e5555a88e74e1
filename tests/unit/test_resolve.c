/* Time passes by timer_run with a later "now"; only c-ares' own timeouts are real. */
#include "unit.h"

#include <fcntl.h>
#include <poll.h>

#include "clock.h"
#include "dns.h"
#include "log.h"
#include "resolve.h"
#include "timer.h"

static char conf[64];

/* ---- the watcher ---- */

struct seen {
    struct resolve_watch watch;
    int calls;
    unsigned place; /* of the second address */
    void (*then)(struct seen *);
};

static void noted(struct resolve_watch *w) {
    struct seen *s = list_entry(w, struct seen, watch);
    s->calls++;
    s->place = resolve_place(w->name, 1);
    if (s->then) s->then(s);
}

static void watch(struct seen *s, const char *host) {
    memset(s, 0, sizeof *s);
    resolve_watch(&s->watch, str_of(host), noted);
}

/* Turns until nothing has happened for a while that could be an answer on its way over loopback. */
static void quiet(void) {
    for (int idle = 0; idle < 3;) {
        uint64_t busy = loop_stats()->turns;
        int before = packets;
        loop_turn(10);
        idle = packets == before && loop_stats()->turns == busy + 1 ? idle + 1 : 0;
    }
}

static void until_calls(const struct seen *s, int calls) {
    int64_t end = clock_now_us() + 15 * 1000000;
    while (s->calls < calls && clock_now_us() < end)
        loop_turn(100);
    assert_int_equal(s->calls, calls);
}

/* So much later: what is due is asked and answered. */
static void later(int64_t ms) {
    timer_run(clock_ms() + ms);
    quiet();
}

static void is(const struct seen *s, const char *list) {
    char text[2048] = "", one[SOCK_TEXT];
    const struct resolve_name *n = s->watch.name;
    for (unsigned i = 0; i < n->naddrs; i++)
        snprintf(text + strlen(text), 64, "%s%s", i ? " " : "", sock_text(&n->addrs[i], one));
    assert_string_equal(text, list);
    assert_int_equal(n->state, n->naddrs ? RESOLVE_KNOWN : RESOLVE_FAILED);
}

/* ---- pure ---- */

static struct sock_addr addr(const char *text) {
    struct sock_addr a = {.len = sizeof a.u.in4, .u.in4.sin_family = AF_INET};
    if (inet_pton(AF_INET, text, &a.u.in4.sin_addr) == 1) return a;
    a = (struct sock_addr){.len = sizeof a.u.in6, .u.in6.sin6_family = AF_INET6};
    assert_int_equal(inet_pton(AF_INET6, text, &a.u.in6.sin6_addr), 1);
    return a;
}

static unsigned addrs(struct sock_addr *to, const char *list) {
    char copy[2048], *rest = copy;
    unsigned n = 0;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *one; (one = strsep(&rest, " "));)
        if (*one) to[n++] = addr(one);
    return n;
}

static bool merged(const char *known, const char *answered, const char *wanted, uint8_t moved[RESOLVE_ADDRS_MAX]) {
    struct sock_addr list[RESOLVE_ADDRS_MAX], got[RESOLVE_ADDRS_MAX + 24], want[RESOLVE_ADDRS_MAX];
    unsigned n = addrs(list, known), nwant = addrs(want, wanted);
    bool another = resolve_merge(list, &n, got, addrs(got, answered), moved);
    char a[SOCK_TEXT], b[SOCK_TEXT];
    assert_int_equal(n, nwant);
    for (unsigned i = 0; i < n; i++)
        assert_string_equal(sock_ip(&list[i], a), sock_ip(&want[i], b));
    return another;
}

static void an_order_is_steady(void **state) {
    uint8_t moved[RESOLVE_ADDRS_MAX];
    (void)state;
    assert_true(merged("", "1.1.1.1 2.2.2.2 1.1.1.1", "1.1.1.1 2.2.2.2", moved));
    assert_false(merged("1.1.1.1 2.2.2.2 3.3.3.3", "3.3.3.3 1.1.1.1 2.2.2.2", "1.1.1.1 2.2.2.2 3.3.3.3", moved));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(moved[i], i);
    assert_int_equal(moved[3], RESOLVE_ADDRS_MAX);
    assert_true(merged("1.1.1.1 2.2.2.2 3.3.3.3", "4.4.4.4 3.3.3.3 2.2.2.2", "2.2.2.2 3.3.3.3 4.4.4.4", moved));
    assert_int_equal(moved[0], RESOLVE_ADDRS_MAX);
    assert_int_equal(moved[1], 0);
    assert_int_equal(moved[2], 1);
    assert_true(merged("1.1.1.1 2.2.2.2", "2.2.2.2", "2.2.2.2", moved));
    assert_true(merged("1.1.1.1", "", "", moved));
    assert_false(merged("", "", "", moved));
    assert_true(merged("::1 127.0.0.1", "127.0.0.1 ::2", "127.0.0.1 ::2", moved));
    assert_false(merged("::1 127.0.0.1", "127.0.0.1 ::1", "::1 127.0.0.1", moved));
}

static const char *run_of(char dst[2048], const char *front, unsigned from, unsigned to) { /* front, then 10.0.0.FROM to TO */
    size_t n = (size_t)snprintf(dst, 2048, "%s", front);
    for (unsigned i = from; i <= to; i++)
        n += (size_t)snprintf(dst + n, 2048 - n, "%s10.0.0.%u", n ? " " : "", i);
    return dst;
}

static void no_more_than_there_is_room_for(void **state) {
    uint8_t moved[RESOLVE_ADDRS_MAX];
    enum { MOST = RESOLVE_ADDRS_MAX };
    static char first[2048], more[2048], turned[2048], wanted[2048];
    (void)state, run_of(turned, "10.0.0.201 10.0.0.202", 1, MOST);
    assert_true(merged("", run_of(first, "", 1, MOST), first, moved));
    assert_true(merged("", run_of(more, "", 1, MOST + 2), first, moved));
    assert_false(merged(first, turned, first, moved)); /* a full list lets nobody in while all of it is still there */
    assert_int_equal(moved[MOST - 1], MOST - 1);
    assert_true(merged("10.0.0.1", turned, run_of(wanted, "10.0.0.1 10.0.0.201 10.0.0.202", 2, MOST - 2), moved));
}

static void ttls_are_clamped(void **state) {
    const int64_t cases[][2] = {{-1, 30000},   {0, 5000},     {1, 5000},     {5, 5000},          {6, 6000},
                                {299, 299000}, {300, 300000}, {301, 300000}, {INT32_MAX, 300000}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(resolve_ttl_ms(cases[i][0]), cases[i][1]);
}

/* ---- without DNS ---- */

static void addresses_need_nobody(void **state) {
    static struct seen four, six;
    (void)state;
    watch(&four, "192.0.2.7");
    watch(&six, "2001:db8::7");
    is(&four, "192.0.2.7:0");
    is(&six, "[2001:db8::7]:0");
    assert_int_equal(four.watch.name->addrs[0].len, sizeof(struct sockaddr_in));
    assert_int_equal(six.watch.name->addrs[0].len, sizeof(struct sockaddr_in6));
    assert_int_equal(four.calls, 0); /* not from within */
    quiet();
    assert_int_equal(four.calls, 1);
    assert_int_equal(six.calls, 1);
    later(400000);
    assert_int_equal(four.calls, 1);
    assert_int_equal(packets, 0);
    resolve_unwatch(&four.watch);
    assert_null(four.watch.name);
    resolve_unwatch(&four.watch); /* twice is harmless */
    resolve_unwatch(&six.watch);
}

static void hosts_file(void **state) {
    static struct seen s;
    bool v4 = false;
    (void)state;
    watch(&s, "localhost");
    assert_int_equal(s.watch.name->state, RESOLVE_ASKING);
    loop_turn(0);
    assert_int_equal(s.calls, 1);
    for (unsigned i = 0; i < s.watch.name->naddrs; i++)
        v4 |= s.watch.name->addrs[i].u.sa.sa_family == AF_INET &&
              s.watch.name->addrs[i].u.in4.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
    assert_true(v4);
    assert_int_equal(timer_next(), clock_ms() + RESOLVE_TTL_NONE);
    later(RESOLVE_TTL_NONE);
    assert_int_equal(s.calls, 1);
    assert_true(timer_next() > clock_ms() + RESOLVE_TTL_NONE - 1000);
    assert_int_equal(packets, 0);
    resolve_unwatch(&s.watch);
}

static void a_name_that_is_none(void **state) {
    char longest[RESOLVE_HOST_MAX + 1];
    static struct seen a, b;
    (void)state;
    memset(longest, 'x', RESOLVE_HOST_MAX);
    longest[RESOLVE_HOST_MAX] = 0;
    watch(&a, longest);
    watch(&b, "a..b");
    until_calls(&a, 1);
    until_calls(&b, 1);
    is(&a, "");
    is(&b, "");
    assert_int_equal(packets, 0);
    resolve_unwatch(&a.watch);
    resolve_unwatch(&b.watch);
}

static void router_dns_is_checked(void **state) {
    const char *good[] = {"127.0.0.1:53", "[::1]:65535", "10.0.0.1:1"};
    const char *bad[] = {"127.0.0.1",
                         "::1:53",
                         "[::1]",
                         "[::1:53",
                         "[127.0.0.1]:53",
                         "127.0.0.1:0",
                         "127.0.0.1:65536",
                         "127.0.0.1:5x",
                         "localhost:53",
                         ":53",
                         "127.0.0.1:",
                         "[]:53",
                         "1.1.1.1:53,2.2.2.2:53",
                         "[2001:db8:2001:db8:2001:db8:2001:db8:2001:db8:2001:db8:2001:db8:2001:db8]:53"};
    (void)state;
    resolve_close();
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        setenv("ROUTER_DNS", good[i], 1);
        assert_null(resolve_open());
        resolve_close();
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setenv("ROUTER_DNS", bad[i], 1);
        assert_non_null(resolve_open());
    }
    setenv("ROUTER_DNS", "", 1);
    assert_null(resolve_open()); /* as if it were not set */
}

/* ---- with DNS ---- */

static void all_addresses_of_both_kinds(void **state) {
    static struct seen s;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1 127.0.0.2", 60)->v6 = "::1";
    watch(&s, "gpu.test");
    assert_int_equal(s.watch.name->state, RESOLVE_ASKING);
    until_calls(&s, 1);
    assert_int_equal(s.watch.name->naddrs, 3);
    quiet();
    assert_int_equal(s.calls, 1);
    assert_int_equal(zones[0].asked4, 1);
    assert_int_equal(zones[0].asked6, 1);
    resolve_unwatch(&s.watch);
}

static void one_name_for_all(void **state) {
    static struct seen a, b, late, other;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1", 60);
    zone(1, "other.test", "127.0.0.9", 60);
    watch(&a, "gpu.test");
    watch(&b, "GPU.test");
    watch(&other, "other.test");
    assert_ptr_equal(a.watch.name, b.watch.name);
    assert_ptr_not_equal(a.watch.name, other.watch.name);
    until_calls(&a, 1);
    assert_int_equal(b.calls, 1);
    watch(&late, "gpu.test");
    is(&late, "127.0.0.1:0");
    assert_int_equal(late.calls, 0);
    quiet();
    assert_int_equal(late.calls, 1);
    assert_int_equal(a.calls, 1);
    assert_int_equal(zones[0].asked4, 1);
    resolve_unwatch(&a.watch);
    resolve_unwatch(&b.watch);
    is(&late, "127.0.0.1:0"); /* the last one keeps it */
    zones[0].v4 = "127.0.0.3";
    later(60000);
    assert_int_equal(late.calls, 2);
    is(&late, "127.0.0.3:0");
    resolve_unwatch(&late.watch);
    resolve_unwatch(&other.watch);
    later(400000);
    assert_int_equal(zones[0].asked4, 2); /* nobody asks for nobody */
}

static void changing_order_moves_nobody(void **state) {
    static struct seen s;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1 127.0.0.2 127.0.0.3", 10);
    watch(&s, "gpu.test");
    until_calls(&s, 1);
    is(&s, "127.0.0.1:0 127.0.0.2:0 127.0.0.3:0");
    unsigned changes = s.watch.name->changes;
    zones[0].v4 = "127.0.0.3 127.0.0.1 127.0.0.2";
    later(10000);
    assert_int_equal(zones[0].asked4, 2);
    is(&s, "127.0.0.1:0 127.0.0.2:0 127.0.0.3:0");
    assert_int_equal(s.calls, 1);
    assert_int_equal(s.watch.name->changes, changes);
    zones[0].v4 = "127.0.0.9 127.0.0.2 127.0.0.3";
    later(10000);
    is(&s, "127.0.0.2:0 127.0.0.3:0 127.0.0.9:0");
    assert_int_equal(s.calls, 2);
    assert_int_equal(s.watch.name->changes, changes + 1);
    assert_int_equal(s.place, 0); /* the second has become the first */
    zones[0].v4 = "127.0.0.2 127.0.0.9";
    later(10000);
    is(&s, "127.0.0.2:0 127.0.0.9:0");
    assert_int_equal(s.place, 0); /* the second is gone */
    resolve_unwatch(&s.watch);
}

static void asked_again_as_the_ttl_ends(void **state) {
    const struct {
        uint32_t ttl, cname;
        int64_t ms;
    } cases[] = {{0, 0, 5000}, {1, 0, 5000}, {20, 0, 20000}, {3600, 0, 300000}, {0x80000001u, 0, 300000}, {60, 9, 9000}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct seen s;
        zone(0, "gpu.test", "127.0.0.1", cases[i].ttl)->cname_ttl = cases[i].cname;
        watch(&s, "gpu.test");
        until_calls(&s, 1);
        timer_run(clock_ms() + cases[i].ms - 200);
        quiet();
        assert_int_equal(zones[0].asked4, 1);
        later(cases[i].ms);
        assert_int_equal(zones[0].asked4, 2);
        assert_int_equal(s.calls, 1);
        resolve_unwatch(&s.watch);
    }
}

static void a_name_that_does_not_resolve(void **state) {
    const int64_t delays[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    static struct seen s;
    (void)state;
    zone(0, "gone.test", NULL, 60);
    zones[0].rcode4 = zones[0].rcode6 = NXDOMAIN;
    watch(&s, "gone.test");
    until_calls(&s, 1);
    is(&s, "");
    for (int i = 0; i < 7; i++) {
        timer_run(clock_ms() + delays[i] - 200);
        quiet();
        assert_int_equal(zones[0].asked4, i + 1);
        later(delays[i]);
        assert_int_equal(zones[0].asked4, i + 2);
    }
    assert_int_equal(s.calls, 1); /* nothing new */
    zone(0, "gone.test", "127.0.0.4", 60);
    later(30000);
    assert_int_equal(s.calls, 2);
    is(&s, "127.0.0.4:0");
    zones[0].rcode4 = zones[0].rcode6 = NXDOMAIN;
    later(60000);
    assert_int_equal(s.calls, 3);
    is(&s, "");
    later(1000); /* the delays begin anew */
    assert_int_equal(zones[0].asked4, 3);
    resolve_unwatch(&s.watch);
}

static void trouble_takes_no_address_away(void **state) {
    static struct seen s, never;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1", 60);
    zone(1, "never.test", NULL, 60);
    zones[1].rcode4 = zones[1].rcode6 = SERVFAIL;
    watch(&s, "gpu.test");
    watch(&never, "never.test");
    until_calls(&s, 1);
    until_calls(&never, 1);
    is(&never, ""); /* it has none to keep */
    zones[0].rcode4 = zones[0].rcode6 = SERVFAIL;
    later(60000);
    assert_true(zones[0].asked4 > 1);
    is(&s, "127.0.0.1:0");
    int asked = zones[0].asked4;
    later(1000);
    assert_true(zones[0].asked4 > asked);
    is(&s, "127.0.0.1:0");
    zones[0].rcode6 = NOERROR; /* "no AAAA" is known, of A nobody can say */
    asked = zones[0].asked4;
    later(2000);
    later(0);
    assert_true(zones[0].asked4 > asked);
    is(&s, "127.0.0.1:0");
    assert_int_equal(s.calls, 1);
    zones[0].rcode4 = NOERROR;
    zones[0].v4 = NULL; /* no data at all: that is an answer */
    later(30000);
    later(0);
    is(&s, "");
    assert_int_equal(s.calls, 2);
    resolve_unwatch(&s.watch);
    resolve_unwatch(&never.watch);
}

static void a_dead_server_blocks_nobody(void **state) {
    static struct seen dead, local;
    (void)state;
    zone(0, "dead.test", NULL, 60);
    zones[0].rcode4 = zones[0].rcode6 = DROP;
    watch(&dead, "dead.test");
    watch(&local, "localhost");
    int64_t began = clock_now_us();
    loop_turn(0);
    assert_int_equal(local.calls, 1); /* needs no server */
    until_calls(&dead, 1);
    int64_t ms = (clock_now_us() - began) / 1000;
    is(&dead, "");
    assert_in_range(ms, 2000, 9000);
    assert_int_equal(zones[0].asked4, 2);
    assert_true(loop_stats()->longest_us < 200000);
    resolve_unwatch(&dead.watch);
    resolve_unwatch(&local.watch);
}

static void over_tcp(void **state) {
    static struct seen s;
    (void)state;
    zone(0, "big.test", "127.0.0.1 127.0.0.2 127.0.0.3", 60)->truncate = true;
    watch(&s, "big.test");
    until_calls(&s, 1);
    is(&s, "127.0.0.1:0 127.0.0.2:0 127.0.0.3:0");
    assert_int_equal(tcp_answers, 2);
    resolve_unwatch(&s.watch);
}

/* ---- who comes and goes ---- */

static struct seen again;
static void leave(struct seen *s) {
    resolve_unwatch(&s->watch);
}
static void take_along(struct seen *s) {
    resolve_unwatch(&s->watch);
    if (again.watch.name) resolve_unwatch(&again.watch);
}
static void come_back(struct seen *s) {
    resolve_unwatch(&s->watch);
    watch(&again, "gpu.test");
}

static void unwatched_from_within(void **state) {
    static struct seen a, b;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1", 60);
    watch(&a, "gpu.test");
    watch(&again, "gpu.test");
    watch(&b, "gpu.test");
    a.then = take_along; /* takes the second away before it is called */
    b.then = leave;      /* and the last one goes, too */
    until_calls(&a, 1);
    assert_int_equal(b.calls, 1);
    assert_int_equal(again.calls, 0);
    assert_true(!a.watch.name && !b.watch.name && !again.watch.name);
    watch(&a, "gpu.test"); /* a new name: asked anew */
    assert_int_equal(a.watch.name->state, RESOLVE_ASKING);
    a.then = come_back;
    until_calls(&again, 1);
    is(&again, "127.0.0.1:0");
    assert_int_equal(zones[0].asked4, 2);
    resolve_unwatch(&again.watch);
}

static void unwatched_while_asked(void **state) {
    static struct seen a, b;
    (void)state;
    zone(0, "gpu.test", "127.0.0.1", 60);
    watch(&a, "gpu.test");
    timer_run(clock_ms()); /* the question is under way */
    resolve_unwatch(&a.watch);
    quiet();
    assert_int_equal(a.calls, 0);
    watch(&a, "gpu.test");
    timer_run(clock_ms());
    resolve_unwatch(&a.watch);
    watch(&b, "gpu.test"); /* takes over the question */
    until_calls(&b, 1);
    quiet();
    assert_int_equal(zones[0].asked4, 2);
    resolve_unwatch(&b.watch);
    watch(&a, "gpu.test");
    watch(&b, "other.test");
    timer_run(clock_ms());
    resolve_unwatch(&b.watch);
    resolve_close(); /* with one watched and one unwatched question under way */
    quiet();
    assert_int_equal(a.watch.name->state, RESOLVE_ASKING);
    assert_null(resolve_open());
    until_calls(&a, 1);
    resolve_unwatch(&a.watch);
}

static void many_names_take_turns(void **state) {
    static struct seen s[40];
    struct pollfd p = {.fd = udp.fd, .events = POLLIN};
    char name[40][32];
    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(name[i], sizeof name[i], "n%d.test", i);
        watch(&s[i], name[i]);
    }
    timer_run(clock_ms());
    assert_int_equal(poll(&p, 1, 1000), 1);
    udp_ready(&udp);
    assert_int_equal(packets, 32); /* A and AAAA of sixteen */
    for (int i = 0; i < 40; i++)
        until_calls(&s[i], 1);
    for (int i = 0; i < 40; i++)
        resolve_unwatch(&s[i].watch);
}

static void write_conf(const char *text) {
    FILE *f = fopen(conf, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void another_resolv_conf_is_followed(void **state) {
    static struct seen s, asked;
    (void)state;
    resolve_close();
    write_conf("search a.test\n");
    assert_null(resolve_open());
    zone(0, "gpu.a.test", "127.0.0.1", 10);
    zone(1, "gpu.long-b.test", "127.0.0.2", 10);
    zone(2, "asked.test", "127.0.0.3", 10);
    watch(&s, "gpu");
    until_calls(&s, 1);
    is(&s, "127.0.0.1:0");
    write_conf("search long-b.test\n");
    watch(&asked, "asked.test");
    timer_run(clock_ms()); /* its question finds the new file; the next one's ... */
    write_conf("search a.test long-b.test\n");
    zones[0].name = NULL;
    later(10000); /* ... finds another again, with that question under way */
    until_calls(&s, 2);
    is(&s, "127.0.0.2:0");
    until_calls(&asked, 1);
    is(&asked, "127.0.0.3:0");
    resolve_unwatch(&s.watch);
    resolve_unwatch(&asked.watch);
}

/* ---- */

static int open_all(void **state) {
    char dns[32];
    (void)state;
    log_set_level(LOG_ERROR);
    clock_update();
    if (loop_open() || !dns_open(dns)) return 1;
    setenv("ROUTER_DNS", dns, 1);
    snprintf(conf, sizeof conf, "/tmp/test_resolve.XXXXXX");
    int fd = mkstemp(conf);
    if (fd < 0) return 1;
    close(fd);
    resolve_test_conf(conf); /* this machine's search list is no part of the test */
    return resolve_open() != NULL;
}

static int close_all(void **state) {
    (void)state;
    loop_turn(0);
    resolve_close();
    dns_close();
    loop_close();
    unlink(conf);
    return timer_next() == TIMER_NEVER ? 0 : 1; /* nothing is left that could fire */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_is_steady),
        cmocka_unit_test(no_more_than_there_is_room_for),
        cmocka_unit_test(ttls_are_clamped),
        TEST(addresses_need_nobody),
        TEST(hosts_file),
        TEST(a_name_that_is_none),
        TEST(router_dns_is_checked),
        TEST(all_addresses_of_both_kinds),
        TEST(one_name_for_all),
        TEST(changing_order_moves_nobody),
        TEST(asked_again_as_the_ttl_ends),
        TEST(a_name_that_does_not_resolve),
        TEST(trouble_takes_no_address_away),
        TEST(a_dead_server_blocks_nobody),
        TEST(over_tcp),
        TEST(unwatched_from_within),
        TEST(unwatched_while_asked),
        TEST(many_names_take_turns),
        TEST(another_resolv_conf_is_followed),
    };
    return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
