#!/usr/bin/python3
"""`make lint`: the rules of the house, kept by a program. Standard library only; run in the project's root.

In: the tree, the Makefile's MODULES and flags, gcc, clang, clang-format, clang-tidy, cppcheck, shellcheck. Out: one line a check with
its verdict, below it what is wrong; the last line is "N passed, M failed", the exit status 1 if anything failed. What a tool found
clean is remembered under build/lint by a hash of all it saw (file, headers, flags, version), so that a second run costs seconds.
`lint.py NAME...` runs the checks whose names begin so.
"""
import concurrent.futures
import hashlib
import os
import pathlib
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path("build/lint")
FILE_LINES, FUNCTION_LINES, SWITCH_LINES, CARD_LINES, MAKE_LINES = 600, 60, 120, 12, 150
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)

# Who may call what. Names are looked for in code, not in comments and strings.
SOCKET_CALLS = r"recv|recvfrom|recvmsg|recvmmsg|send|sendto|sendmsg|sendmmsg|readv|writev|splice"
SOCKET_EXEMPT = {
    "conn": "the rule itself",
    "probe": "the command line's blocking probe, without a loop",
    "sd": "datagrams to the service manager, who is no peer",
    "access": "its stdout may be somebody else's socket: MSG_DONTWAIT instead of O_NONBLOCK on a shared description",
    "log": "the same of its stderr",
}
UNBOUNDED = r"strcpy|stpcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atoll|atof|strtok"
IMPURE = r"log_(?:error|warn|info|debug|line)|clock_(?!http_date)\w+|loop_\w+|sock_\w+|conn_(?!f|k|r)\w+|socket|open|fopen|time|gettimeofday|clock_gettime"
# (clock_http_date is a text that stands still for a second: `head` puts it into our own replies.)
IMPURE_EXEMPT = {"conf": "conf_load opens the one file it is asked for", "conf_read": "reads api_keys_file for it"}

# What gcc's analyzer (12 to 14) gets wrong here.
ANALYZER = [
    "-fanalyzer",
    "-Wno-analyzer-too-complex",  # it says it gave up, which is no finding
    "-Wno-analyzer-malloc-leak",  # owners are intrusive lists and callbacks' containers, which it cannot follow; asan's leak check can
    "-Wno-analyzer-use-of-uninitialized-value",  # it loses structs of two words that go through registers; -Wall, clang and valgrind do not
]
CPPCHECK = [
    "--enable=warning,performance,portability", "--error-exitcode=1", "--std=c11", "--language=c", "--platform=unix64", "--inline-suppr",
    "--quiet", "--template={file}:{line}: {id}: {message}", "-Iinclude", "-Itests/bench", "-D__x86_64__", "-D__GNUC__", "-D_GNU_SOURCE",
    "--suppress=missingIncludeSystem",  # libc's headers are known to it by its own tables
    "--suppress=unknownMacro",          # X-macro rows and list_each of headers it did not open
    "--suppress=comparePointers:src/ui.c",  # the first and last byte of one page, for which the assembler gives two symbols
    "--suppress=normalCheckLevelMaxBranches",  # says that it did not look everywhere, which is no finding
]


def read(path):
    return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")


def glob(*patterns):
    return sorted(str(p) for pattern in patterns for p in pathlib.Path(".").glob(pattern))


def stem(path):
    return pathlib.PurePath(path).stem


class Tree:
    """What there is to look at. Any of it may be missing."""

    def __init__(self):
        ask = 'lint-ask: ; @printf "%s\\n" "$(MODULES)" "$(FORMATS)" "$(CFLAGS_ALL)"'
        answer = subprocess.run(["make", "-s", "MODE=release", "WERROR=1", f"--eval={ask}", "lint-ask"], capture_output=True, text=True, check=True)
        modules, formats, flags = answer.stdout.splitlines()[-3:]
        self.modules, self.formats, self.flags = modules.split(), formats.split(), flags.split()
        self.rank = {m: i for i, m in enumerate(self.modules)}
        self.src, self.headers = glob("src/*.c"), glob("include/*.h")
        self.bench = glob("tests/bench/*.c")
        self.tests = glob("tests/unit/*.c", "tests/fuzz/*.c", "tests/golden/*.c")
        self.c = self.src + self.bench + self.tests
        self.h = self.headers + glob("tests/*/*.h")
        self.shell = glob("**/*.sh") + [p for p in (".ci/run",) if os.path.exists(p)]
        self.shell = [p for p in self.shell if not p.startswith("build") and "node_modules" not in p]
        self.python = glob("tests/**/*.py", "examples/*.py") + [p for p in glob("examples/*") if os.path.isfile(p) and read(p).startswith("#!/usr/bin/python3")]
        self.python = sorted({p for p in self.python if "node_modules" not in p})

    def flags_of(self, path):
        return self.flags + (["-iquote", "tests/unit"] if path.startswith("tests/unit") else [])

    def seen_by(self, path):
        """The file and every project header it reaches."""
        found, todo = {}, [path]
        while todo:
            at = todo.pop()
            if at in found or not os.path.isfile(at):
                continue
            found[at] = read(at)
            for name in INCLUDE.findall(found[at]):
                todo += [f"include/{name}", str(pathlib.PurePath(at).parent / name)]
        return found


def blank(text):
    """The code with comments, strings and characters blanked, line for line."""
    def hide(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', hide, text, flags=re.S)


def run(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"{argv[0]}: exit status {done.returncode}"


VERSIONS = {}


def version(tool):
    if tool not in VERSIONS:
        VERSIONS[tool] = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    return VERSIONS[tool]


def over(tree, jobs, extra=""):
    """Runs [(path, argv)] side by side, leaving out what was clean before; the problems, in order."""
    def one(job):
        path, argv = job
        h = hashlib.sha256(repr((argv, version(argv[0]), extra)).encode())
        for name, text in sorted(tree.seen_by(path).items()):
            h.update(repr((name, text)).encode())
        mark = CACHE / "clean" / h.hexdigest()
        if mark.exists():
            return ""
        said = run(argv)
        if not said:
            mark.touch()
        return said
    for tool in {argv[0] for _, argv in jobs}:
        version(tool)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [said for said in pool.map(one, jobs) if said]


def findings(said):
    """A compiler's words without the lines it quotes; a header that is missing is told once, not once a file."""
    bad, missing = [], {}
    for text in said:
        lines = [line for line in text.splitlines() if re.search(r": (fatal error|error|warning):", line)]
        lost = re.search(r"fatal error: '?([\w./]+)'?(?:: No such file| file not found)", text)
        if lost:
            missing[lost.group(1)] = missing.get(lost.group(1), 0) + 1
        else:
            bad.append("\n".join(dict.fromkeys(lines)) or text)
    bad = [line.replace(f"{ROOT}/", "") for line in dict.fromkeys("\n".join(bad).splitlines())]
    return bad + [f"{name}: is missing, and {count} compilations fail for it" for name, count in sorted(missing.items())]


# ---- checks: each returns what is wrong, as texts ----

def check_include_order(tree):
    bad = []
    for path in tree.src + tree.headers:
        me = stem(path)
        if me not in tree.rank:
            bad.append(f"{path}: not in the Makefile's MODULES")
            continue
        own = {me, me.split("_")[0]} if path.startswith("src/") else set()  # json_scan.c is a part of json
        for name in INCLUDE.findall(read(path)):
            other = name.removesuffix(".h")
            if other not in tree.rank or "/" in name:
                bad.append(f'{path}: "{name}" is no module of MODULES')
            elif other not in own and tree.rank[other] >= tree.rank[me]:
                bad.append(f'{path}: "{name}" does not stand before {me} in MODULES')
    for path in glob("tests/unit/test_*.c"):
        me = stem(path).removeprefix("test_")
        for name in INCLUDE.findall(read(path)):
            other = name.removesuffix(".h")
            if not os.path.exists(f"tests/unit/{name}") and tree.rank.get(other, 1000) > tree.rank.get(me, -1):
                bad.append(f'{path}: "{name}" stands after {me} in MODULES, and is not linked')
    return bad


def check_headers_alone(tree):
    flags = [f for f in tree.flags if not f.startswith("-D_FORTIFY")]
    flags += ["-Wno-unused-function", "-fsyntax-only", "-x", "c"]  # clang takes a header named on its command line for a .c
    bad = over(tree, [(h, [cc, *flags, h]) for cc in ("gcc", "clang") for h in tree.headers])
    return findings(bad) + [f"{h}: has no comment at its top" for h in tree.headers if not read(h).startswith("/* ")]


def functions(text):
    """(name, first line, lines, is a pure switch) of each function. Relies on clang-format: a body ends with a brace in column 0."""
    lines, begin, opened, found = blank(text).split("\n"), None, None, []
    for i, line in enumerate(lines):
        if opened is None:
            if line[:1].strip() and line[0] not in "#}":
                begin = i
            if begin is not None and line.rstrip().endswith("{"):
                opened = i
            elif line.rstrip().endswith((";", "}")):
                begin = None
        elif line.startswith("}"):
            head = " ".join(lines[begin:opened + 1])
            name = re.search(r"(\w+)\s*\(", head)
            if name and not re.match(r"(typedef )?(struct|enum|union)\b[^()]*\{$", head.strip()) and "=" not in head.split("(")[0]:
                found.append((name.group(1), begin + 1, i - begin + 1, is_switch(lines[opened + 1:i])))
            begin = opened = None
    return found


def is_switch(body):
    """All but a few lines stand within one switch."""
    starts = [i for i, line in enumerate(body) if line.startswith("    switch (")]
    if len(starts) != 1:
        return False
    end = next((i for i in range(starts[0], len(body)) if body[i] == "    }"), len(body))
    return len(body) - (end - starts[0] + 1) <= 10


def card_length(text):
    """Lines of the comment at the top, up to its first empty line (a drawing may follow); None where there is no comment."""
    if not text.startswith("/* "):
        return None
    count = 0
    for line in text.split("\n"):
        if line.strip() in ("*", ""):
            break
        count += 1
        if "*/" in line:
            break
    return count


def check_budgets(tree):
    bad = []
    for path in tree.c + tree.h + tree.python + tree.shell:
        count = read(path).count("\n")
        if count > FILE_LINES:
            bad.append(f"{path}: {count} lines, the budget is {FILE_LINES}")
    if read("Makefile").count("\n") > MAKE_LINES:
        bad.append(f"Makefile: more than {MAKE_LINES} lines")
    for path in tree.c + tree.h:
        for name, line, count, pure in functions(read(path)):
            most = SWITCH_LINES if pure else FUNCTION_LINES
            if count > most:
                bad.append(f"{path}:{line}: {name} has {count} lines, the budget is {most}")
    return bad


def check_cards(tree):
    bad = []
    for path in tree.src + tree.bench + glob("tests/fuzz/*.c", "tests/golden/*.c"):
        count = card_length(read(path))
        if count is None:
            bad.append(f"{path}: does not open with its card")
        elif count > CARD_LINES:
            bad.append(f"{path}: its card has {count} lines, at most {CARD_LINES} before the drawing")
        elif path.startswith("src/") and not read(path).startswith(f"/* {stem(path)}: "):
            bad.append(f'{path}: its card does not begin with "{stem(path)}: "')
    return bad


def check_format(tree):
    bad = []
    for said in over(tree, [(p, ["clang-format", "--dry-run", "-Werror", p]) for p in tree.c + tree.h], read(".clang-format")):
        places = [line.split(": error")[0] for line in said.splitlines() if ": error" in line]
        bad.append(f"{places[0]}: and {len(places) - 1} more places in this file: `make format`" if places else said)
    return bad


def compile_with(tree, cc):
    where = CACHE / cc
    where.mkdir(parents=True, exist_ok=True)
    flags = ["-Wno-unused-command-line-argument"] if cc == "clang" else []
    jobs = [(p, [cc, *tree.flags_of(p), *flags, "-c", p, "-o", str(where / (p.replace("/", "_") + ".o"))]) for p in tree.c]
    return findings(over(tree, jobs))


def check_gcc(tree):
    return compile_with(tree, "gcc")


def check_clang(tree):
    return compile_with(tree, "clang")


def check_tidy(tree):
    flags = [f for f in tree.flags if f not in ("-Werror", "-fPIE", "-fstack-protector-strong") and not f.startswith("-D_FORTIFY")]
    jobs = [(p, ["clang-tidy", "--quiet", p, "--", *flags]) for p in tree.src + tree.bench]
    return findings(over(tree, jobs, read(".clang-tidy")))


def check_cppcheck(tree):
    return over(tree, [(p, ["cppcheck", *CPPCHECK, p]) for p in tree.src + tree.bench])


def check_analyzer(tree):
    flags = [f for f in tree.flags if f not in ("-O2", "-g") and not f.startswith("-D_FORTIFY")]
    return findings(over(tree, [(p, ["gcc", *flags, "-O1", *ANALYZER, "-c", p, "-o", "/dev/null"]) for p in tree.src]))


def check_shellcheck(tree):
    return over(tree, [(p, ["shellcheck", p]) for p in tree.shell])


def check_python(tree):
    bad = []
    with tempfile.TemporaryDirectory() as where:
        for path in tree.python:
            try:
                py_compile.compile(path, cfile=os.path.join(where, "out.pyc"), doraise=True)
            except py_compile.PyCompileError as e:
                bad.append(str(e).strip())
    return bad


def calls(text, names):
    """(line, name) of each call of one of these in the code."""
    for i, line in enumerate(blank(text).split("\n"), 1):
        for m in re.finditer(rf"(?<![\w.>])({names})\s*\(", line):
            yield i, m.group(1)


def check_rules(tree):
    bad = []
    for path in tree.src:
        text, me = read(path), stem(path)
        found = []
        if me != "loop":
            found += [(i, f"{n}: only loop.c may call it") for i, n in calls(text, r"epoll_\w+")]
        if me not in SOCKET_EXEMPT:
            found += [(i, f"{n}: only conn.c may call it") for i, n in calls(text, SOCKET_CALLS)]
        if me in tree.formats and me not in IMPURE_EXEMPT:
            found += [(i, f"{n}: formats have no descriptor, clock, loop or log") for i, n in calls(text, IMPURE)]
        found += [(i, f"{n}: has no bound") for i, n in calls(text, UNBOUNDED)]
        bad += [f"{path}:{i}: {what}" for i, what in sorted(found)]
    words = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    texts = tree.c + tree.h + tree.shell + tree.python + ["Makefile", *glob("*.md", "src/*.md", "*.yaml", "examples/*.yaml", "examples/*.sh", "examples/*.py", "examples/backend", "examples/*/*", "tests/PROMISES", ".ci/*")]
    for path in sorted(p for p in set(texts) if os.path.isfile(p)):
        bad += [f"{path}:{i}: {m.group(0)}" for i, line in enumerate(read(path).split("\n"), 1) for m in words.finditer(line)]
    return bad


def test_exists(where):
    """tests/integration/test_x.py::name, unit/test_x:name, golden/FILE, fuzz/..., clients/...: is it in the tree?"""
    if "::" in where:
        path, _, name = where.partition("::")
        name = name.split("::")[-1].split("[")[0]
        return os.path.isfile(path) and re.search(rf"^\s*(?:async )?def {re.escape(name)}\(", read(path), re.M)
    if where.startswith("unit/"):
        path, _, name = where.partition(":")
        path = f"tests/{path}.c"
        return bool(name) and os.path.isfile(path) and re.search(rf"\bcmocka_unit_test\w*\(\s*{re.escape(name)}\b", read(path))
    return bool(where) and os.path.exists(where if where.startswith("tests/") else f"tests/{where}")


def check_promises(_tree):
    bad = []
    for i, line in enumerate(read("tests/PROMISES").split("\n") if os.path.exists("tests/PROMISES") else [], 1):
        if not line.strip() or line.startswith("#"):
            continue
        at = f"tests/PROMISES:{i}"
        promise, sep, ids = line.rpartition(" :: ")  # ids have no blanks round their own ::
        if not sep or not re.match(r"§\d+(\.\d+)? \S", promise):
            bad.append(f'{at}: not of the form "§x.y promise :: test, test"')
            continue
        bad += [f"{at}: no such test: {t.strip() or '(none)'}" for t in ids.split(",") if not test_exists(t.strip())]
    return bad


CHECKS = [
    ("include order", check_include_order), ("headers compile alone", check_headers_alone), ("budgets", check_budgets),
    ("cards", check_cards), ("clang-format", check_format), ("gcc without a warning", check_gcc), ("clang without a warning", check_clang),
    ("rules", check_rules), ("promises", check_promises), ("shellcheck", check_shellcheck), ("python", check_python),
    ("cppcheck", check_cppcheck), ("clang-tidy", check_tidy), ("gcc -fanalyzer", check_analyzer),
]


def main():
    os.chdir(ROOT)
    missing = [t for t in ("gcc", "clang", "clang-format", "clang-tidy", "cppcheck", "shellcheck") if not shutil.which(t)]
    if missing:
        sys.exit(f"lint: missing: {' '.join(missing)}: LINT=1 sh tests/deps.sh installs them")
    (CACHE / "clean").mkdir(parents=True, exist_ok=True)
    tree, passed, failed = Tree(), 0, 0
    for name, check in CHECKS:
        if sys.argv[1:] and not name.startswith(tuple(sys.argv[1:])):
            continue
        bad = check(tree)
        print(f"{'FAIL' if bad else 'ok  '} {name}" + (f": {len(bad)}" if bad else ""), flush=True)
        for text in bad:
            print("     " + text.replace("\n", "\n     "), flush=True)
        passed, failed = passed + (not bad), failed + bool(bad)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
