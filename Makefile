# router: `make run` shows it, `make test` proves it. MODE=release|debug|asan|ubsan builds under build/$(MODE).
# A module includes only what stands before it in this list (tests/lint checks that); a unit test links its module and those before it.
BASE    := str list clock log why slab block buf body
MACHINE := timer loop sock resolve conn
FORMATS := syntax field http head json_scan json multipart models usage loading node value findings conf_read conf_keys conf
MODEL   := stats access endpoint expand world route catalog
TRAFFIC := client room relay held intake forward upstream dispatch health notes txn
PROGRAM := version metrics status ui local keys front listener sd reload server options explain probe main
MODULES := $(BASE) $(MACHINE) $(FORMATS) $(MODEL) $(TRAFFIC) $(PROGRAM)

MODE   ?= release
PREFIX ?= /usr/local
PY     := /usr/bin/python3
B      := build/$(MODE)
Q      := $(if $(V),,@)

CC     := $(if $(filter default,$(origin CC)),gcc,$(CC))
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wcast-qual -Wformat=2 -Wvla -Wimplicit-fallthrough
ifneq ($(WERROR)$(CI),)
WARN += -Werror
endif
LTO := $(if $(findstring Free Software,$(shell $(CC) --version)),-flto=auto)
FLAGS_release := -O2 -g $(LTO) -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LINK_release  := -O2 -g $(LTO) -pie -Wl,-z,relro,-z,now
FLAGS_debug   := -O0 -g
FLAGS_asan    := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# clang's runtime as a library, as gcc's is: libraries that tests preload can stand before it.
LINK_asan     := -fsanitize=address,undefined $(if $(findstring clang,$(CC)),-shared-libasan -Xlinker -rpath -Xlinker $(dir $(shell $(CC) -print-file-name=libclang_rt.asan-$(shell uname -m).so)))
FLAGS_ubsan   := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all
LINK_ubsan    := -fsanitize=undefined

PKGS := yaml-0.1 libcjson libxxhash libcares
LLHTTP_SYSTEM := $(shell pkg-config --exists libllhttp 2>/dev/null && echo yes)
ifeq ($(LLHTTP_SYSTEM),yes)
PKGS += libllhttp
else
LLHTTP_OBJ := $(addprefix $(B)/llhttp/,llhttp.o api.o http.o)
LLHTTP_INC := -isystem /usr/share/include/llhttp
endif
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -fvisibility=hidden $(FLAGS_$(MODE)) $(WARN) -iquote include $(LLHTTP_INC) \
	$(patsubst -I%,-isystem%,$(shell pkg-config --cflags $(PKGS) 2>/dev/null)) $(CFLAGS)
LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) $(LDFLAGS)

SRC   := $(foreach m,$(MODULES),$(wildcard src/$m.c))
OBJ   := $(SRC:src/%.c=$(B)/%.o)
UNIT  := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ  := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
# The modules up to and with $1.
upto   = $(if $(filter $1,$(firstword $2)),$(firstword $2),$(firstword $2) $(call upto,$1,$(wordlist 2,$(words $2),$2)))
objs   = $(patsubst src/%.c,$(B)/%.o,$(foreach m,$(call upto,$1,$(MODULES)),$(wildcard src/$m.c))) $(LLHTTP_OBJ)

all: deps
	@$(MAKE) --no-print-directory router
router: $(B)/router
	@cp -f $< $@
$(B)/router: $(OBJ) $(LLHTTP_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(LINK_$(MODE)) $^ -o $@ $(LIBS)
$(B)/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC $@"
	$Q$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@
$(B)/ui.o: src/ui.html
$(B)/llhttp/%.o: /usr/share/llhttp/%.c
	@mkdir -p $(@D)
	$Q$(CC) $(FLAGS_$(MODE)) -w -DLLHTTP_STRICT_MODE=1 -isystem /usr/share/include/llhttp -c $< -o $@

.SECONDEXPANSION:
$(UNIT): $(B)/unit/test_%: tests/unit/test_%.c $$(call objs,$$*)
	@mkdir -p $(@D)
	@echo "  LD $@"
	$Q$(CC) $(CFLAGS_ALL) -iquote tests/unit $(LINK_$(MODE)) $^ -o $@ -lcmocka $(LIBS)
EVENTS := $(B)/golden $(B)/replay/request $(B)/replay/response build/fuzz/request build/fuzz/response
$(EVENTS): tests/fuzz/events.h
$(B)/golden: tests/golden/golden.c $(call objs,http)
	@mkdir -p $(@D)
	@echo "  LD $@"
	$Q$(CC) $(CFLAGS_ALL) $(LINK_$(MODE)) $(filter-out %.h,$^) -o $@ $(LIBS)
FUZZ_LAST := conf
$(B)/replay/%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(call objs,$(FUZZ_LAST))
	@mkdir -p $(@D)
	@echo "  LD $@"
	$Q$(CC) $(CFLAGS_ALL) $(LINK_$(MODE)) $(filter-out %.h,$^) -o $@ $(LIBS)
# llhttp from its sources, too: gcc's objects for link-time optimisation are none of clang's, and its states count as coverage.
build/fuzz/%: tests/fuzz/fuzz_%.c $(patsubst $(B)/%.o,src/%.c,$(filter-out $(LLHTTP_OBJ),$(call objs,$(FUZZ_LAST)))) $(LLHTTP_OBJ:$(B)/%.o=/usr/share/%.c)
	@mkdir -p $(@D)
	clang $(filter-out -O2 -O1 -flto=auto -fPIE -D_FORTIFY_SOURCE=2,$(CFLAGS_ALL)) -O1 -w -DLLHTTP_STRICT_MODE=1 -fsanitize=fuzzer,address,undefined $(filter-out %.h,$^) -o $@ $(LIBS)

unit: $(UNIT)
golden: $(B)/golden
replay: $(FUZZ:%=$(B)/replay/%)
fuzz: $(FUZZ:%=build/fuzz/%)
	@sh tests/fuzz.sh $(FUZZ)

deps:
	@sh tests/deps.sh
run: all
	@sh examples/run.sh
test: deps
	@MODE=asan sh tests/test.sh
ubsan-test: deps
	@MODE=ubsan sh tests/test.sh
valgrind-test:
	@VALGRIND=1 sh tests/deps.sh
	@MODE=debug VALGRIND=1 sh tests/test.sh
browser clients slow: all
	@sh tests/$@/run.sh
lint:
	@LINT=1 sh tests/deps.sh
	@$(PY) tests/lint.py
bench: deps
	@$(MAKE) --no-print-directory MODE=release router
	@$(PY) tests/bench/bench.py
soak: deps
	@$(MAKE) --no-print-directory MODE=release build/release/router
	$(PY) tests/soak/soak.py --seconds $${SOAK_SECONDS:-1800} --seed $${SOAK_SEED:-1} --router build/release/router
format:
	clang-format -i src/*.c include/*.h tests/unit/*.[ch] tests/fuzz/*.[ch] tests/golden/*.c tests/bench/*.c
integration: deps
	@$(MAKE) --no-print-directory MODE=asan build/asan/router
	ROUTER_BIN=build/asan/router $(PY) -m pytest -q tests/integration

BIN ?= router
install: $(BIN)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' UNITS='$(UNITS)' sh packaging/install.sh install '$(BIN)'
uninstall:
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' sh packaging/install.sh uninstall
image:
	@sh packaging/image.sh
deb: deps
	@$(MAKE) --no-print-directory MODE=release router
	@sh packaging/deb.sh
image-test:
	@sh tests/image/run.sh
deb-test:
	@sh tests/deb/run.sh
debians kubernetes:
	@sh tests/$@.sh
guard:
	@VALGRIND=1 sh tests/deps.sh
	@$(MAKE) --no-print-directory MODE=release router
	@$(PY) tests/bench/guard.py
clean:
	rm -rf build router

.PHONY: all deps run test ubsan-test valgrind-test unit golden replay fuzz integration bench soak clients browser slow lint format install uninstall image deb image-test deb-test debians guard kubernetes clean
.SECONDARY:
-include $(wildcard $(B)/*.d)
