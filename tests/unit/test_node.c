#include "unit.h"

#include "node.h"

static struct node *parse(const char *text) {
    struct node_error err;
    struct node *n = node_parse(text, strlen(text), &err);
    if (!n) fail_msg("%d:%d: %s", err.line, err.column, err.text);
    return n;
}

static void refuses(const char *text, int line, int column, const char *word) {
    struct node_error err;
    struct node *n = node_parse(text, strlen(text), &err);
    assert_null(n);
    if (!strstr(err.text, word)) fail_msg("'%s' does not say '%s'", err.text, word);
    assert_int_equal(err.line, line);
    assert_int_equal(err.column, column);
}

static void at(const struct node *n, enum node_kind kind, int line, int column) {
    assert_int_equal(n->kind, kind);
    assert_int_equal(n->line, line);
    assert_int_equal(n->column, column);
    assert_null(n->problem);
}

static void a_tree_with_places(void **state) {
    (void)state;
    struct node *n = parse("a: 1\n\"b\":\n  - x\n  - 'y z'\n  - {k: \"v\", l: [1, 2]}\nc: |\n  two\n  lines\n");
    at(n, NODE_MAP, 1, 1);
    assert_int_equal(n->count, 3);
    at(n->keys[0], NODE_SCALAR, 1, 1);
    at(n->items[0], NODE_SCALAR, 1, 4);
    assert_string_equal(n->items[0]->text, "1");
    assert_int_equal(n->items[0]->len, 1);
    assert_false(n->items[0]->quoted);
    assert_true(n->keys[1]->quoted);
    const struct node *list = n->items[1];
    at(list, NODE_LIST, 3, 3);
    assert_int_equal(list->count, 3);
    at(list->items[1], NODE_SCALAR, 4, 5);
    assert_string_equal(list->items[1]->text, "y z");
    assert_true(list->items[1]->quoted);
    at(list->items[2], NODE_MAP, 5, 5);
    at(list->items[2]->items[1], NODE_LIST, 5, 17);
    assert_string_equal(list->items[2]->items[1]->items[1]->text, "2");
    assert_string_equal(n->items[2]->text, "two\nlines\n");
    assert_true(n->items[2]->quoted);
    node_free(n);
}

static void columns_are_characters(void **state) {
    (void)state;
    struct node *n = parse("{\"\xc3\xa4\xc3\xb6\": \xe2\x82\xac, b: c}"); /* äö, the euro sign */
    at(n->keys[1], NODE_SCALAR, 1, 11);
    assert_string_equal(n->items[0]->text, "\xe2\x82\xac");
    node_free(n);
    n = parse("\xef\xbb\xbf"
              "a: b"); /* a byte order mark */
    assert_string_equal(n->keys[0]->text, "a");
    node_free(n);
}

static void doubles_and_order_are_kept(void **state) {
    (void)state;
    struct node *n = parse("b: 1\na: 2\nb: 3\n");
    assert_int_equal(n->count, 3);
    assert_string_equal(n->keys[0]->text, "b");
    assert_string_equal(n->keys[2]->text, "b");
    assert_string_equal(n->items[2]->text, "3");
    node_free(n);
}

static void nothing_is_an_empty_map(void **state) {
    static const char *const texts[] = {"", "\n\n", "# only a comment\n", "  "};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct node *n = parse(texts[i]);
        at(n, NODE_MAP, 1, 1);
        assert_int_equal(n->count, 0);
        node_free(n);
    }
    struct node *n = parse("---\n"); /* a document, with nothing in it */
    assert_true(node_is_null(n));
    node_free(n);
}

static void nulls(void **state) {
    (void)state;
    struct node *n = parse("[~, null, Null, NULL, \"\", '~', 'null', nil, 0, {}, []]\n");
    for (size_t i = 0; i < 4; i++)
        assert_true(node_is_null(n->items[i]));
    for (size_t i = 4; i < n->count; i++)
        assert_false(node_is_null(n->items[i]));
    node_free(n);
    n = parse("a:\nb: c\n");
    assert_true(node_is_null(n->items[0]));
    assert_int_equal(n->items[0]->line, 1);
    node_free(n);
}

/* They are noted, not fatal, so that one run tells of all of them. */
static void anchors_aliases_and_tags_are_noted(void **state) {
    (void)state;
    struct node *n = parse("a: &x 1\nb: *x\nc: !!str d\ne: &y [1]\nf: &z {g: h}\n*x : i\nj: \"\\0\"\n");
    assert_int_equal(n->count, 7);
    assert_non_null(strstr(n->items[0]->problem, "anchors"));
    assert_false(n->items[0]->unreadable); /* what it says is clear all the same */
    assert_string_equal(n->items[0]->text, "1");
    assert_non_null(strstr(n->items[1]->problem, "aliases"));
    assert_true(n->items[1]->unreadable);
    assert_int_equal(n->items[1]->line, 2);
    assert_int_equal(n->items[1]->column, 4);
    assert_string_equal(n->items[1]->text, "");
    assert_false(node_is_null(n->items[1]));
    assert_non_null(strstr(n->items[2]->problem, "tags"));
    assert_non_null(strstr(n->items[3]->problem, "anchors"));
    assert_int_equal(n->items[3]->count, 1);
    assert_non_null(strstr(n->items[4]->problem, "anchors"));
    assert_non_null(strstr(n->keys[5]->problem, "aliases"));
    assert_true(n->keys[5]->unreadable);
    assert_non_null(strstr(n->items[6]->problem, "NUL"));
    assert_true(n->items[6]->unreadable);
    assert_int_equal(n->items[6]->len, 0);
    node_free(n);
}

static void syntax_errors_have_their_place(void **state) {
    (void)state;
    refuses("a: [\n", 2, 1, "not valid YAML");
    refuses("a:\n\tb: c\n", 2, 1, "a tab may not indent");
    refuses("a: b\n---\nc: d\n", 2, 1, "a second document");
    refuses("? [a, b]\n: c\n", 1, 3, "a key must be plain text");
    refuses("{{a: b}: c}", 1, 2, "a key must be plain text");
    refuses("models:\n  - *\n", 2, 6, "must stand in quotes");
    refuses("models: [&]\n", 1, 11, "must stand in quotes");
    refuses("a: b\nc: \xff\n", 2, 4, "not valid YAML");            /* not UTF-8 */
    refuses("a: \xc3\xa4\xc3\xa4 \xff\n", 1, 7, "not valid YAML"); /* columns are characters there too */
    refuses("a: b\n c: d\n", 2, 3, "not valid YAML");
}

/* brackets around nothing, so many deep */
static struct node *nested(int depth, struct node_error *err) {
    char text[128];
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    return node_parse(text, 2 * (size_t)depth, err);
}

static void depth_is_bounded(void **state) {
    struct node_error err;
    (void)state;
    struct node *n = nested(17, &err); /* the outermost is at depth 0 */
    assert_non_null(n);
    node_free(n);
    assert_null(nested(18, &err));
    assert_string_equal(err.text, "nested too deeply");
    assert_int_equal(err.column, 18);
}

static void the_number_of_nodes_is_bounded(void **state) {
    size_t most = 100000, len = 2 * most + 1;
    char *text = malloc(len);
    struct node_error err;
    (void)state;
    for (size_t i = 0; i < len; i++)
        text[i] = ",a"[i % 2]; /* the list itself is one more */
    text[0] = '[';
    text[len - 2 - 1] = ']'; /* most - 1 items */
    struct node *n = node_parse(text, len - 2, &err);
    assert_non_null(n);
    assert_int_equal(n->count, most - 1);
    node_free(n);
    text[len - 2 - 1] = 'a', text[len - 2] = ',';
    text[len - 2 - 1] = ',', text[len - 2] = 'a', text[len - 1] = ']';
    assert_null(node_parse(text, len, &err));
    assert_string_equal(err.text, "too many values in one file");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tree_with_places),
        cmocka_unit_test(columns_are_characters),
        cmocka_unit_test(doubles_and_order_are_kept),
        cmocka_unit_test(nothing_is_an_empty_map),
        cmocka_unit_test(nulls),
        cmocka_unit_test(anchors_aliases_and_tags_are_noted),
        cmocka_unit_test(syntax_errors_have_their_place),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(the_number_of_nodes_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
