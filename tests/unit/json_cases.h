/* What JSON is and what it is not, of every kind that JSONTestSuite knows, each inside one object; for test_json.c. */
#ifndef JSON_CASES_H
#define JSON_CASES_H
#include "json.h"

/* clang-format off */
#define V(value) "{\"a\":" value "}"

static const char *const accepted[] = {
    /* structure */
    "{}", " {}", "{} ", "\t\r\n {\t\r\n } \t\r\n", "{ }", V("1"), "{\"a\":1,\"b\":2}", " { \"a\" : 1 , \"b\" : [ 2 , 3 ] } ",
    "{\"\":0}",
    "{\"a\":{}}", "{\"a\":{\"b\":{\"c\":{}}}}", "{\"a\":\"b\",\"a\":\"c\"}", "{\"a\":\"b\",\"a\":\"b\"}",
    "{\"min\":-1.0e+28,\"max\":1.0e+28}",
    "{\"a\":[]}", "{\n\"a\"\n:\n\"b\"\n}",
    "{\"x\":[{\"id\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}],\"id\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
    V("[[]   ]"), V("[\"\"]"), V("[]"), V("[\"a\"]"), V("[false]"), V("[null,1,\"1\",{}]"), V("[null]"), V("[1\n]"), V(" [1]"),
    V("[1,null,null,null,2]"), V("[2] "), V("[[[[]]],[[],[]],{}]"), V("[{\"a\":[{\"b\":[]}]},[{}]]"), V("[true,false,null]"),
    /* numbers */
    V("123"), V("0"), V("-0"), V("1"), V("-1"), V("-123"), V("10"), V("1.5"), V("0.0"), V("0.5"), V("-0.5"), V("-0.0"),
    V("123.456789"), V("123e65"),
    V("0e+1"), V("0e1"), V("0E0"), V("0.0e0"), V("1E22"), V("1E-2"), V("1E+2"), V("123e45"), V("123.456e78"), V("1e-2"), V("1e+2"),
    V("1e00"),
    V("20e1"), V("-1e-1"), V("[0]"), V("[0,0]"), V("[-0,1 ]"), V("[1.0\t,2e1\n]"), V("100000000000000000000000000000000"),
    V("1e400"), V("-1e+9999"),
    V("0.4e006699999999999999999999999999999999999999999999999999999999999999"
      "99999999999999999999999999999999999999999999999999999969999999006"),
    V("-0.000000000000000000000000000000000000000000000000000000000000000000000000000001"), V("1.7976931348623157e308"),
    /* words */
    V("true"), V("false"), V("null"), V("true "), V("\tnull"),
    /* strings */
    V("\"\""), V("\" \""), V("\"a\""), V("\"a/*b*/c\""), V("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), V("\"\\\\u0000\""), V("\"\\\"\""),
    V("\"\\\\\""),
    V("\"\\\\\\\"\""), V("\"\\\\a\""), V("\"\\\\n\""), V("\"\\u0012\""), V("\"\\u0000\""), V("\"\\uFFFF\""), V("\"asd\""),
    V("\"\\u0060\\u012a\\u12AB\""),
    V("\"\\uD801\\udc37\""), V("\"\\ud83d\\ude39\\ud83d\\udc8d\""), V("\"\\uDBFF\\uDFFF\""), V("\"new\\u000Aline\""),
    V("\"\\u0022\""), V("\"\\u005C\""),
    V("\"\x7f\""), V("\"\xc3\xa9\""), V("\"\xe2\x82\xac\""), V("\"\xe2\x80\xa8\""), V("\"\xe2\x80\xa9\""),
    V("\"\xf4\x8f\xbf\xbf\""), V("\"\xef\xbf\xbf\""),
    V("\"\xef\xbb\xbf\""), V("\"'\""), V("\"{}[],:\""), V("\"//\""), V("[\"a\",\"b\"]"), V("[\"\\\"\",\"\\\\\"]"),
    "{\"\\\"\":\"\\\\\"}", "{\"a\\\\\":1}",
    "{\"\\u0041\":1}", "{\"foo\\u0000bar\":42}", "{\"asd\":\"sdf\"}",
    "{\"title\":\"\\u041f\\u043e\\u043b\\u0442\\u043e\\u0440\\u0430\"}",
    /* what a string's text is, is the endpoint's business: bad escapes, bad UTF-8, lone surrogates */
    V("\"\\x00\""), V("\"\\a\""), V("\"\\'\""), V("\"\\u\""), V("\"\\u1\""), V("\"\\u00A\""), V("\"\\u123\",\"b\":2"),
    V("\"\\uXXXX\""), V("\"\\u\\\"\""),
    V("\"\\uD800\""), V("\"\\uDFAA\""), V("\"\\uD800\\n\""), V("\"\\uD800\\uD800\\n\""), V("\"\\uDd1e\\uD834\""),
    V("\"\\uD834\\uDd\""),
    V("\"\\uD800\\u\""), V("\"\\uD800\\u1x\""), V("\"\\\xe5\""), V("\"\xff\""), V("\"\xe0\xff\""), V("\"\xc0\xaf\""),
    V("\"\x81\""), V("\"\xed\xa0\x80\""),
    V("\"\xf4\xbf\xbf\xbf\""), V("\"\xe6\x97\xa5\xd1\x88\xfa\""), V("\"\xfc\x83\xbf\xbf\xbf\xbf\""), V("\"\\ \""),
    V("\"\\\\\\x\""), "{\"\\q\":1}", "{\"\xb9\":\"0\"}",
};

/* What is wrong, and the offset of the byte at which it is known. */
static const struct {
    const char *text;
    size_t at;
} refused[] = {
    /* no object */
    {"", 0}, {" ", 1}, {"\n\t\r ", 4}, {"[]", 0}, {"[{}]", 0}, {"\"a\"", 0}, {"1", 0}, {"-", 0}, {"null", 0}, {"true", 0},
    {" x", 1}, {"}", 0}, {"]", 0}, {",", 0},
    {":", 0}, {"\xef\xbb\xbf{}", 0}, {" \xef\xbb\xbf{}", 1}, {"\xff\xfe{", 0}, {"\xfe\xff", 0}, {"\xc2\xa0{}", 0}, {"\f{}", 0},
    {"\v{}", 0}, {"<.>", 0}, {"'a'", 0}, {"*", 0},
    {"\xe2\x81\xa0{}", 0}, {"//{}", 0}, {"/**/{}", 0}, {"#{}", 0}, {"abc{}", 0},
    /* something behind it */
    {"{}x", 2}, {"{}}", 2}, {"{}]", 2}, {"{}{}", 2}, {"{} []", 3}, {"{},", 2}, {"{}#{}", 2}, {"{}/**/", 2}, {"{}//", 2},
    {"{}\f", 2}, {"{}\xef\xbb\xbf", 2}, {V("1") "\"x\"", 7},
    {V("\"b\"") "/", 9}, {V("\"b\"") "#", 9}, {V("true") "x", 10}, {"{}  \n1", 5},
    /* not closed */
    {"{", 1}, {"{ ", 2}, {"{\"", 2}, {"{\"a", 3}, {"{\"a\"", 4}, {"{\"a\":", 5}, {"{\"a\":1", 6}, {"{\"a\":\"", 6},
    {"{\"a\":\"a", 7}, {"{\"a\":\"a\"", 8}, {"{\"a\":1,", 7},
    {"{\"a\":[", 6}, {"{\"a\":[1", 7}, {"{\"a\":[1,", 8}, {"{\"a\":[\"", 7}, {"{\"a\":[{", 7}, {"{\"a\":[]", 7}, {"{\"a\":{}", 7},
    {"{\"a\":nul", 8}, {"{\"a\":t", 6},
    {"{\"a\":\"\\", 7}, {"{\"a\":\"\\\"", 8}, {"{\"a\":\"\\u", 8}, {"{\"\\", 3}, {"{\"a\":-", 6}, {"{\"a\":0", 6},
    {"{\"a\":1.", 7}, {"{\"a\":1e", 7}, {"{\"a\":1e+", 8},
    {"{\"a\":1e1", 8}, {"{\"a\":1.5", 8}, {"{\"a\":[\"\",\n\"x\"", 13}, {"{\"a\":\"\\{[\"\\{[", 10},
    /* objects */
    {"{\"a\"}", 4}, {"{\"a\":}", 5}, {"{:\"b\"}", 1}, {"{\"a\" b}", 5}, {"{\"a\",\"b\"}", 4}, {"{\"a\":\"b\",}", 9},
    {"{\"a\":1,,}", 7}, {"{,}", 1}, {"{,\"a\":1}", 1},
    {"{\"a\"::1}", 5}, {"{\"a\":\"b\" \"c\":1}", 9}, {"{\"x\", null}", 4}, {"{\"x\"::\"b\"}", 5}, {"{a:1}", 1}, {"{'a':1}", 1},
    {"{1:1}", 1}, {"{null:null}", 1},
    {"{true:1}", 1}, {"{[]:1}", 1}, {"{{}:1}", 1}, {"{\"a\"=1}", 4}, {"{\"a\":1]", 6}, {"{]", 1}, {"{\"a\":\"a\" 123}", 9},
    {"{\"a\":1;}", 6}, {"{\"a\":\"a}", 8},
    {"{\"a\":/*comment*/\"b\"}", 5}, {"{\"a\":1 /*c*/}", 7}, {"{/**/}", 1}, {"{\"a\":\"b\",//\n}", 9}, {"{\"a\":1 \"b\"}", 7},
    {"{\xf0\x9f\x87\xa8}", 1}, {"{\"a\":1,\"b\"}", 10},
    {"{\"a\":1,}", 7}, {"{\"a\":{}:1}", 7}, {"{\"a\":[]:1}", 7}, {"{\"a\":1,1:2}", 7}, {"{\"a\":1,{}}", 7},
    {"{\"a\":\"b\":\"c\"}", 8}, {"{\"a\":1:2}", 6},
    /* arrays */
    {V("[1 true]"), 8}, {V("[1:2]"), 7}, {V("[1,]"), 8}, {V("[1,,]"), 8}, {V("[1,,2]"), 8}, {V("[,1]"), 6}, {V("[,]"), 6},
    {V("[\"\",]"), 9}, {V("[\"x\"]]"), 10},
    {V("[3[4]]"), 7}, {V("[1}"), 7}, {V("[}"), 6}, {V("[*]"), 6}, {V("[\"a\" \"b\"]"), 10}, {V("[][]"), 7}, {V("[{}{}]"), 8},
    {V("[1 000]"), 8}, {V("[(1)]"), 6},
    {V("[\"x\", truth]"), 14}, {V("[\"a\":1]"), 9}, {V("[1;2]"), 7}, {V("[\n\"a\",\n4\n,"), 15}, {V("]"), 5},
    {V("[1,\n1\n,1"), 13}, {V("[\"a\",\n4\n,1,"), 16}, {V("[\f]"), 6},
    {V("[\xe2\x81\xa0]"), 6}, {V("[\v1]"), 6}, {V("[1\f]"), 7}, {V("[\\u000A\"\"]"), 6}, {V("[\x01]"), 6}, {V("[\x1f]"), 6},
    {V("[\x7f]"), 6},
    /* numbers */
    {V("01"), 6}, {V("-01"), 7}, {V("00"), 6}, {V("012"), 6}, {V("-00"), 7}, {V("-012"), 7}, {V("1."), 7}, {V("0."), 7},
    {V("-2."), 8}, {V("2.e3"), 7}, {V("2.e+3"), 7},
    {V("0.e1"), 7}, {V(".5"), 5}, {V("-.5"), 6}, {V(".2e-3"), 5}, {V("+1"), 5}, {V("++1234"), 5}, {V("-+1"), 6}, {V("--1"), 6},
    {V("- 1"), 6}, {V("-"), 6}, {V("-a"), 6},
    {V("-1x"), 7}, {V("-0x"), 7}, {V("1x"), 6}, {V("1e"), 7}, {V("1E"), 7}, {V("1e+"), 8}, {V("1e-"), 8}, {V("0e"), 7},
    {V("0E+"), 8}, {V("0.3e"), 9}, {V("0.3e+"), 10},
    {V("9.e+"), 7}, {V("1eE2"), 7}, {V("1e1e1"), 8}, {V("1e1.5"), 8}, {V("1.5.5"), 8}, {V("0.1.2"), 8}, {V("1 000.0"), 7},
    {V("1,000"), 7}, {V("1_000"), 6}, {V("0x1"), 6}, {V("0x42"), 6},
    {V("0b1"), 6}, {V("1a"), 6}, {V("1.8011670033376514H-308"), 23}, {V("1+2"), 6}, {V("1.2a-3"), 8}, {V("1ea"), 7},
    {V("1e++1"), 8}, {V("-1.0."), 9}, {V("NaN"), 5}, {V("-NaN"), 6},
    {V("Infinity"), 5}, {V("-Infinity"), 6}, {V("Inf"), 5}, {V("\xef\xbc\x91"), 5}, {V("123\xe5"), 8}, {V("1e1\xe5"), 8},
    {V("0\xe5"), 6}, {V("1f"), 6}, {V("1L"), 6}, {V("-\t1"), 6},
    /* words */
    {V("nul"), 8}, {V("nulll"), 9}, {V("nil"), 6}, {V("tru"), 8}, {V("truE"), 8}, {V("TRUE"), 5}, {V("True"), 5}, {V("False"), 5},
    {V("None"), 5}, {V("fals"), 9}, {V("falsee"), 10},
    {V("true1"), 9}, {V("truefalse"), 9}, {V("null\"\""), 9}, {V("undefined"), 5}, {V("t rue"), 6}, {V("tr\nue"), 7}, {V("a"), 5},
    {V("\xe5"), 5}, {V("a\xe5"), 5},
    /* strings */
    {V("\"\n\""), 6}, {V("\"\t\""), 6}, {V("\"\r\""), 6}, {V("\"\x01\""), 6}, {V("\"\x1f\""), 6}, {V("\"a\x1f"), 7},
    {V("\"new\nline\""), 9}, {V("\"\\\n\""), 7}, {V("\"\\\x01\""), 7},
    {V("\"\\\\\n\""), 8}, {V("\"\\u\n\""), 8}, {V("'a'"), 5}, {V("'"), 5}, {V("\""), 7}, {V("\"\"\""), 7}, {V("\"a\"b\""), 8},
    {V("\"\\\""), 9}, {V("\"\\\\\"\""), 9}, {V("\"x\"\\n"), 8},
    {V("\\\"\""), 5}, {V("`a`"), 5}, {V("a\"b\""), 5}, {V("\"a\"\"b\""), 8}, {"{\"a\n\":1}", 3}, {"{\"\\\n\":1}", 3},
    {"{\"\x1e\":1}", 2}, {V("\\u0061"), 5},
};

/* ---- what is found ---- */

static const struct json_want wants[] = {
    {STR("user"), {0}}, {STR("metadata"), STR("user_id")}, {STR("metadata"), {0}},
    {STR("user"), STR("name")}, {STR("m\xc3\xa9tier"), {0}},
};
enum { USER, METADATA_USER_ID, METADATA, USER_NAME, METIER, NWANTS };

/* The body, how many models it names, and the model's value. */
static const struct {
    const char *text;
    unsigned models;
    enum json_type type;
    const char *raw;
} model_cases[] = {
    {"{}", 0, JSON_ABSENT, NULL},
    {"{\"model\":\"m\"}", 1, JSON_STRING, "m"},
    {"{\"model\":\"\"}", 1, JSON_STRING, ""},
    {" { \"model\" : \"a\\/b\" } ", 1, JSON_STRING, "a\\/b"},
    {"{\"a\":{\"model\":\"x\"},\"model\":\"m\",\"b\":[{\"model\":\"y\"}]}", 1, JSON_STRING, "m"},
    {"{\"a\":{\"model\":\"x\"}}", 0, JSON_ABSENT, NULL},
    {"{\"user\":{\"model\":\"x\"},\"messages\":[{\"model\":\"x\"}]}", 0, JSON_ABSENT, NULL},
    {"{\"model\":null}", 1, JSON_OTHER, "null"},
    {"{\"model\":-1.5e3 }", 1, JSON_OTHER, "-1.5e3"},
    {"{\"model\":true,\"a\":1}", 1, JSON_OTHER, "true"},
    {"{\"model\":[\"m\"]}", 1, JSON_ARRAY, "[\"m\"]"},
    {"{\"model\":{\"id\":\"m\"}}", 1, JSON_OBJECT, "{\"id\":\"m\"}"},
    {"{\"\\u006dodel\":\"m\"}", 1, JSON_STRING, "m"},
    {"{\"\\u006D\\u006F\\u0064\\u0065\\u006C\":\"m\"}", 1, JSON_STRING, "m"},
    {"{\"mode\":1,\"models\":2,\"xmodel\":3,\"odel\":4,\"\":5,\"m\":6,\"modem\":7,\"model \":8,\" model\":9}", 0,
     JSON_ABSENT, NULL},
    {"{\"x\":\"\\\",\\\"model\\\":\\\"y\"}", 0, JSON_ABSENT, NULL},
    {"{\"m\xc3\xa9\":1,\"m\xc3\":2}", 1, JSON_ABSENT, NULL}, /* in pieces, the first key's last byte lies behind the second */
};

/* The body, a want, and what is found for it: wants with only a key, of objects, in objects, given twice. */
struct found_case {
    const char *text;
    size_t want;
    enum json_type type;
    const char *raw;
};
static const struct found_case wanted[] = {
    {"{}", USER, JSON_ABSENT, NULL},
    {"{\"user\":\"u\"}", USER, JSON_STRING, "u"},
    {"{\"x\":\"user\",\"user\":\"\"}", USER, JSON_STRING, ""},
    {"{\"user\":\"\\u0075\\n\"}", USER, JSON_STRING, "\\u0075\\n"},
    {"{\"\\u0075ser\":\"u\"}", USER, JSON_STRING, "u"},
    {"{\"User\":\"u\"}", USER, JSON_ABSENT, NULL},
    {"{\"user\\u0000\":\"u\"}", USER, JSON_ABSENT, NULL},
    {"{\"user\\q\":\"u\"}", USER, JSON_ABSENT, NULL},
    {"{\"m\xc3\xa9tier\":\"u\"}", METIER, JSON_STRING, "u"},
    {"{\"m\\u00e9tier\":\"u\"}", METIER, JSON_STRING, "u"},
    {"{\"user\":12 }", USER, JSON_OTHER, "12"},
    {"{\"user\":[1,{\"id\":\"x\"}] }", USER, JSON_ARRAY, "[1,{\"id\":\"x\"}]"},
    {"{\"a\":{\"user\":\"u\"}}", USER, JSON_ABSENT, NULL},
    {"{\"a\":[\"user\",\"u\"]}", USER, JSON_ABSENT, NULL},
    {"{\"messages\":[{\"user\":\"u\"}]}", USER, JSON_ABSENT, NULL},
};

static const struct found_case ids[] = {
    {"{\"user\":{\"id\":\"u\"}}", USER, JSON_STRING, "u"},
    {"{\"user\":{\"name\":\"n\",\"id\":\"u\",\"x\":{\"id\":\"y\"}}}", USER, JSON_STRING, "u"},
    {"{\"user\":{\"\\u0069d\":\"\\u0075\"}}", USER, JSON_STRING, "\\u0075"},
    {"{\"user\": {\"id\":\"\"}}", USER, JSON_STRING, ""},
    {"{\"user\": {} }", USER, JSON_OBJECT, "{}"},
    {"{\"user\": { \"ID\":\"u\" } }", USER, JSON_OBJECT, "{ \"ID\":\"u\" }"},
    {"{\"user\":{\"id\":5}}", USER, JSON_OBJECT, "{\"id\":5}"},
    {"{\"user\":{\"id\":null}}", USER, JSON_OBJECT, "{\"id\":null}"},
    {"{\"user\":{\"id\":[\"u\"]}}", USER, JSON_OBJECT, "{\"id\":[\"u\"]}"},
    {"{\"user\":{\"id\":{\"id\":\"u\"}}}", USER, JSON_OBJECT, "{\"id\":{\"id\":\"u\"}}"},
    {"{\"user\":{\"a\":{\"id\":\"u\"}}}", USER, JSON_OBJECT, "{\"a\":{\"id\":\"u\"}}"},
    {"{\"user\":{\"a\":[{\"id\":\"u\"}],\"b\":1}}", USER, JSON_OBJECT, "{\"a\":[{\"id\":\"u\"}],\"b\":1}"},
    {"{\"user\":[{\"id\":\"u\"}]}", USER, JSON_ARRAY, "[{\"id\":\"u\"}]"},
    {"{\"user\":{\"id\":\"u\"},\"id\":\"no\"}", USER, JSON_STRING, "u"},
    {"{\"user\":{\"name\":\"n\",\"id\":\"u\"}}", USER_NAME, JSON_STRING, "n"},
};

static const struct found_case one_level[] = {
    {"{\"metadata\":{\"user_id\":\"u\"}}", METADATA_USER_ID, JSON_STRING, "u"},
    {"{\"metadata\":{\"user_id\":\"u\"}}", METADATA, JSON_OBJECT, "{\"user_id\":\"u\"}"},
    {"{\"metadata\":{\"id\":\"i\",\"user_id\":\"u\"}}", METADATA, JSON_STRING, "i"},
    {"{\"metadata\":{\"user\\u005fid\":\"u\\\"\"}}", METADATA_USER_ID, JSON_STRING, "u\\\""},
    {"{\"metadata\":{\"x\":1,\"user_id\":[1, 2]}}", METADATA_USER_ID, JSON_ARRAY, "[1, 2]"},
    {"{\"metadata\":{\"user_id\":{\"id\":\"x\"}}}", METADATA_USER_ID, JSON_OBJECT, "{\"id\":\"x\"}"},
    {"{\"metadata\":{\"user_id\":-0.5}}", METADATA_USER_ID, JSON_OTHER, "-0.5"},
    {"{\"metadata\":{\"a\":{\"user_id\":\"u\"}}}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":[{\"user_id\":\"u\"}]}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":[\"user_id\",\"u\"]}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":\"user_id\",\"user_id\":\"u\"}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"user_id\":\"u\",\"x\":{\"metadata\":{\"user_id\":\"u\"}}}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":{},\"x\":{\"user_id\":\"u\"}}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":{\"user_id\":[1],\"x\":[2,3],\"y\":{}}}", METADATA_USER_ID, JSON_ARRAY, "[1]"},
    {"{\"metadata\":{\"user_id\":{}},\"x\":{\"y\":[{}]}}", METADATA_USER_ID, JSON_OBJECT, "{}"},
    {"{\"messages\":[],\"metadata\":{\"user_id\":\"u\"},\"messages\":[]}", METADATA_USER_ID, JSON_STRING, "u"},
};

static const struct found_case last_of_two[] = {
    {"{\"user\":\"a\",\"user\":\"b\"}", USER, JSON_STRING, "b"},
    {"{\"user\":\"a\",\"user\":null}", USER, JSON_OTHER, "null"},
    {"{\"user\":\"a\",\"\\u0075ser\":{}}", USER, JSON_OBJECT, "{}"},
    {"{\"user\":{\"id\":\"a\"},\"user\":\"b\"}", USER, JSON_STRING, "b"},
    {"{\"user\":{\"id\":\"a\"},\"user\":{\"x\":1}}", USER, JSON_OBJECT, "{\"x\":1}"},
    {"{\"user\":{\"id\":\"a\",\"id\":\"b\"}}", USER, JSON_STRING, "b"},
    {"{\"user\":{\"id\":\"a\",\"id\":7}}", USER, JSON_OBJECT, "{\"id\":\"a\",\"id\":7}"},
    {"{\"user\":{\"id\":{},\"id\":\"a\"}}", USER, JSON_STRING, "a"},
    {"{\"metadata\":{\"user_id\":\"a\"},\"metadata\":{}}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":{\"user_id\":\"a\"},\"metadata\":5}", METADATA_USER_ID, JSON_ABSENT, NULL},
    {"{\"metadata\":{\"user_id\":\"a\",\"user_id\":{}}}", METADATA_USER_ID, JSON_OBJECT, "{}"},
    {"{\"metadata\":{\"user_id\":\"a\"},\"metadata\":{\"user_id\":\"b\"}}", METADATA_USER_ID, JSON_STRING, "b"},
};

#define M(messages) "{\"messages\":[" messages "]}"

/* The body, and the first system and user contents. */
struct begin_case {
    const char *text;
    enum json_type system_type;
    const char *system;
    enum json_type user_type;
    const char *user;
};
static const struct begin_case beginnings[] = {
    {M(""), JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {M("{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"user\",\"content\":\"v\"}"),
     JSON_STRING, "s", JSON_STRING, "u"},
    {M("{\"content\":\"s\",\"role\":\"developer\"},{\"content\":\"u\\n\",\"role\":\"\\u0075ser\"}"),
     JSON_STRING, "s", JSON_STRING, "u\\n"},
    {M("{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":\"t\"}"), JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {M("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"u\"}]}"),
     JSON_ABSENT, NULL, JSON_ARRAY, "[{\"type\":\"text\",\"text\":\"u\"}]"},
    {M("{\"role\":\"user\",\"content\":[ {\"role\":\"system\",\"content\":\"no\"} ] }"),
     JSON_ABSENT, NULL, JSON_ARRAY, "[ {\"role\":\"system\",\"content\":\"no\"} ]"},
    {M("{\"role\":\"system\",\"content\":{\"parts\":[]}}"), JSON_OBJECT, "{\"parts\":[]}", JSON_ABSENT, NULL},
    {M("{\"role\":\"user\",\"content\":\"\"}"), JSON_ABSENT, NULL, JSON_STRING, ""},
    {M("{\"role\":\"user\",\"content\":null},{\"role\":\"user\"},{\"role\":\"user\",\"content\":5},"
       "{\"role\":\"user\",\"content\":\"u\"}"),
     JSON_ABSENT, NULL, JSON_STRING, "u"},
    {M("{\"content\":\"none\"},{\"role\":5,\"content\":\"x\"},{\"role\":\"User\",\"content\":\"x\"},"
       "{\"role\":[\"user\"],\"content\":\"x\"}"),
     JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {M("{\"role\":\"user\"},{\"content\":\"of another\"}"), JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {M("{\"role\":\"tool\",\"role\":\"user\",\"content\":\"x\",\"content\":\"u\"}"), JSON_ABSENT, NULL, JSON_STRING, "u"},
    {M("{\"role\":\"user\",\"role\":null,\"content\":\"x\"},{\"role\":\"user\",\"content\":\"x\",\"content\":null}"),
     JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {M("{\"\\u0072ole\":\"user\",\"c\\u006fntent\":\"u\"}"), JSON_ABSENT, NULL, JSON_STRING, "u"},
    {M("{\"role\":\"user\",\"extra\":{\"content\":\"x\",\"role\":\"system\"},\"content\":\"u\"}"),
     JSON_ABSENT, NULL, JSON_STRING, "u"},
    {M("\"user\",5,null,[{\"role\":\"user\",\"content\":\"x\"}],[\"role\"],{},{\"role\":\"user\",\"content\":\"u\"}"),
     JSON_ABSENT, NULL, JSON_STRING, "u"},
    {"{\"messages\":{\"role\":\"user\",\"content\":\"x\"}}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"messages\":\"x\",\"role\":\"user\",\"content\":\"x\"}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"x\":{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"prompt\":[{\"role\":\"user\",\"content\":\"x\"}]}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"input\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}]}",
     JSON_STRING, "s", JSON_STRING, "u"},
};

static const struct begin_case two_lists[] = {
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"input\":[{\"role\":\"user\",\"content\":\"b\"},"
       "{\"role\":\"system\",\"content\":\"s\"}]}",
     JSON_STRING, "s", JSON_STRING, "a"},
    {"{\"input\":[{\"role\":\"user\",\"content\":\"b\"}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
     JSON_ABSENT, NULL, JSON_STRING, "b"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"input\":[{\"role\":\"user\",\"content\":\"b\"}],"
       "\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]}",
     JSON_ABSENT, NULL, JSON_STRING, "b"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"messages\":[{\"role\":\"system\",\"content\":\"s\"}]}",
     JSON_STRING, "s", JSON_ABSENT, NULL},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"messages\":null}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"input\":[{\"role\":\"user\",\"content\":\"a\"}],\"input\":\"b\"}", JSON_ABSENT, NULL, JSON_ABSENT, NULL},
    {"{\"messages\":[{\"role\":\"system\",\"content\":\"s\"}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
     JSON_ABSENT, NULL, JSON_STRING, "a"},
};

/* Members' names that some reader may take for `model`, and such that none does. */
static const char *const doubtful[] = {
    "model\\u0000", "MODEL\\u0000abc", "model\\q", "model\\u12", "model\\u12zz\\\\", "mod\\q", "\\model", "\\q", "m\\odel",
    "mode\\l", "mode\\u+06c", "\\u 6dodel", "\\uD800model", "mo\\uDC00del", "model\\ud83dx", "mod\xff" "el",
    "\xc1\xad" "odel", "mo\xc3" "del", "model\xff", "\xed\xa0\x80model", "Mode\xe2\x82", "mo\\u00e\\u0064el",
};
static const char *const harmless[] = {
    "models\\u0000", "mod\\u0000el", "\\u0000model", "\\u0000", "x\\q", "modex\\q", "model \\q", "x\xff", "models\xff",
    "mod\xc3\xa9" "el", "\xd0\xbc\xd0\xbe\xd0\xb4\xd0\xb5\xd0\xbb\xd1\x8c", "mode\xc5\x82", "\xef\xbd\x8dodel",
    "mode\\u0142", "\\ud83d\\ude00", "model\xc2\xad", "m\xf0\x9f\x98\x80", "\\\\model", "\\\"model", "model\\\\", "mod\\/el",
    "model\\u00ad", "m\xc3\xb3" "del\xff",
};

/* Which bytes may stand between the two, and make it whole. */
static const struct {
    const char *before, *after, *allowed;
} bytes[] = {
    {"", "}", "{"},
    {"{", "}", " \t\n\r"},
    {"{\"a\"", "1}", ":"},
    {"{\"a\"", ":1}", " \t\n\r"},
    {"{\"a\":1", "}", " \t\n\r0123456789"},
    {"{\"a\":1}", "", " \t\n\r"},
    {"{\"a\":1,", "\"b\":1}", " \t\n\r"},
    {"{\"a\":-", "}", "0123456789"},
    {"{\"a\":0", "}", " \t\n\r"},
    {"{\"a\":1.", "}", "0123456789"},
    {"{\"a\":1.5", "}", " \t\n\r0123456789"},
    {"{\"a\":1e", "}", "0123456789"},
    {"{\"a\":1e", "2}", "0123456789+-"},
    {"{\"a\":1e+", "}", "0123456789"},
    {"{\"a\":1e1", "}", " \t\n\r0123456789"},
    {"{\"a\":0", "5}", ".eE"},
    {"{\"a\":1", "5}", "0123456789.eE"},
    {"{\"a\":[1", "1]}", "0123456789.eE,"},
    {"{\"a\":[", "]}", " \t\n\r0123456789"},
    {"{\"a\":", "}", "0123456789"},
    {"{\"a\":tr", "e}", "u"},
    {"{\"a\":fal", "e}", "s"},
    {"{\"a\":n", "ll}", "u"},
    {"{\"a\":[[]", "}", "]"},
};
/* clang-format on */
#endif
