# Rhea. `make help` says what there is to make.
#
# One Makefile for the whole tree: sources are found by folder (a new file needs no edit here),
# headers are tracked by the compiler (-MMD), a change of flags rebuilds what it touches.

SHELL := /bin/bash
.DEFAULT_GOAL := all
.SUFFIXES:
.DELETE_ON_ERROR:
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

BUILD ?= build
VERSION := $(shell cat VERSION 2>/dev/null || echo 0)

# --- configuration -------------------------------------------------------------------------------
# Targets that must work, and must not set anything up, on an unconfigured tree.
UNCONFIGURED := help clean distclean dist lint
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out $(UNCONFIGURED),$(GOALS)),)
SANITIZE_GIVEN := $(SANITIZE)
include config.mk
ifneq ($(SANITIZE_GIVEN),)
SANITIZE := $(SANITIZE_GIVEN)
endif
# An engine that has come into the tree since ./configure was run.
ifeq ($(ENABLE_KVM)$(if $(wildcard accel/kvm/*.cc),+),absent+)
ENABLE_KVM := yes
endif
endif
config.mk: configure
	@./configure

# --- flags ---------------------------------------------------------------------------------------
OPTIMISE := $(if $(filter yes,$(DEBUG)),-O0,-O2)
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
COMPILE = $(CCACHE) $(CXX) -std=c++20 $(OPTIMISE) -g -Wall -Wextra -Wshadow -Wconversion -I. \
	-pthread $(SANITIZE_FLAGS) $(PACKAGE_CFLAGS) $(USER_CXXFLAGS)
LINK = $(CXX) -g -pthread $(SANITIZE_FLAGS) $(USER_LDFLAGS)

# Extra flags of single files: FLAGS_<path without .cc>.o := ...
FLAGS_emulator/main.o := -DRHEA_VERSION='"$(VERSION)"'
FLAGS_emulator/session_commands.o := $(FLAGS_emulator/main.o)
FLAGS_emulator/engine.o := $(if $(filter yes,$(ENABLE_KVM)),-DRHEA_KVM)

# --- sources -------------------------------------------------------------------------------------
LIBRARIES := dm accel hw block net
TESTS := unit device diff
under = $(if $(wildcard $(1)),$(sort $(shell find $(1) -name '*.cc')))
objects = $(patsubst %.cc,$(BUILD)/obj/%.o,$(1))

$(foreach l,$(LIBRARIES),$(eval SOURCES_$(l) := $(call under,$(l))))
# Composition roots and engines that are switched off are no part of the libraries.
SOURCES_dm := $(filter-out dm/daemon/%,$(SOURCES_dm))
SOURCES_block := $(filter-out block/tool/%,$(SOURCES_block))
ifneq ($(ENABLE_XEN),yes)
SOURCES_accel := $(filter-out accel/xen/%,$(SOURCES_accel))
endif
ifneq ($(ENABLE_KVM),yes)
SOURCES_accel := $(filter-out accel/kvm/%,$(SOURCES_accel))
endif
# The programs, and the folder of each, a composition root.
ROOT_rhea := emulator
ROOT_rhea-img := block/tool
$(foreach p,rhea rhea-img,$(eval SOURCES_$(p) := $(call under,$(ROOT_$(p)))))
PROGRAM_NAMES := $(foreach p,rhea rhea-img,$(if $(SOURCES_$(p)),$(p)))
$(foreach t,$(TESTS),$(eval SOURCES_tests_$(t) := $(call under,tests/$(t))))

LIBS := $(foreach l,$(LIBRARIES),$(if $(SOURCES_$(l)),$(BUILD)/lib$(l).a))
PROGRAMS := $(PROGRAM_NAMES:%=$(BUILD)/%)
ifneq ($(ENABLE_KVM),yes)
SOURCES_tests_unit := $(filter-out tests/unit/kvm_%,$(SOURCES_tests_unit))
endif
TEST_PROGRAMS := $(foreach t,$(TESTS),$(if $(SOURCES_tests_$(t)),$(BUILD)/tests/$(t)))
ALL_SOURCES := $(foreach l,$(LIBRARIES) $(PROGRAM_NAMES),$(SOURCES_$(l))) \
	$(foreach t,$(TESTS),$(SOURCES_tests_$(t)))
HEADERS := $(sort $(shell find $(wildcard $(LIBRARIES) emulator tests) -name '*.h'))

.PHONY: all tests man check check-asan check-tsan check-headers lint bench demo install uninstall clean \
	distclean dist help compile_commands.json FORCE
all: $(LIBS) $(PROGRAMS)
tests: $(TEST_PROGRAMS)

# --- rules ---------------------------------------------------------------------------------------
# keep,FILE,TEXT: FILE holds TEXT; it is touched only when that changes.
keep = mkdir -p $(dir $(1)) && printf '%s\n' '$(2)' | cmp -s - $(1) || printf '%s\n' '$(2)' >$(1)

$(BUILD)/flags: FORCE
	@$(call keep,$@,$(COMPILE))

$(BUILD)/obj/%.o: %.cc $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	@$(COMPILE) $(FLAGS_$*.o) -MMD -MP -c -o $@ $<

# The list of a library's members is a prerequisite: a source that went away leaves the archive.
define library_rule
$(BUILD)/lib$(1).list: FORCE
	@$$(call keep,$$@,$(SOURCES_$(1)))
$(BUILD)/lib$(1).a: $(call objects,$(SOURCES_$(1))) $(BUILD)/lib$(1).list
	@echo "  AR    $$@"
	@rm -f $$@ && ar rcsT $$@ $(call objects,$(SOURCES_$(1)))
endef
$(foreach l,$(LIBRARIES),$(if $(SOURCES_$(l)),$(eval $(call library_rule,$(l)))))

LINK_LIBS = -Wl,--start-group $(LIBS) -Wl,--end-group $(PACKAGE_LIBS)

define program_rule
$(BUILD)/$(1).list: FORCE
	@$$(call keep,$$@,$(SOURCES_$(1)))
$(BUILD)/$(1): $(call objects,$(SOURCES_$(1))) $(LIBS) $(BUILD)/$(1).list
	@echo "  LINK  $$@"
	@$$(LINK) -o $$@ $(call objects,$(SOURCES_$(1))) $$(LINK_LIBS)
endef
$(foreach p,$(PROGRAM_NAMES),$(eval $(call program_rule,$(p))))

define test_rule
$(BUILD)/tests/$(1).list: FORCE
	@$$(call keep,$$@,$(SOURCES_tests_$(1)))
$(BUILD)/tests/$(1): $(call objects,$(SOURCES_tests_$(1))) $(LIBS) $(BUILD)/tests/$(1).list
	@echo "  LINK  $$@"
	@$$(LINK) -o $$@ $(call objects,$(SOURCES_tests_$(1))) $$(LINK_LIBS) -lgtest_main -lgtest -lZydis
endef
$(foreach t,$(TESTS),$(if $(SOURCES_tests_$(t)),$(eval $(call test_rule,$(t)))))

# A test that does not compile must not pass for want of GoogleTest: see to the packages first.
$(call objects,$(foreach t,$(TESTS),$(SOURCES_tests_$(t)))): | check-packages
check-packages demo-packages bench-packages: %-packages: | config.mk
	@./configure --need $*
.PHONY: check-packages demo-packages bench-packages

-include $(patsubst %.o,%.d,$(call objects,$(ALL_SOURCES)))

# --- checks --------------------------------------------------------------------------------------
HEADER_STAMPS := $(HEADERS:%.h=$(BUILD)/headers/%.h.ok)
check-headers: $(HEADER_STAMPS)
$(BUILD)/headers/%.h.ok: %.h $(BUILD)/flags | check-packages
	@mkdir -p $(@D)
	@echo '#include "$<"' | $(filter-out $(CCACHE),$(COMPILE)) -fsyntax-only -MMD -MP -MF $@.d -MT $@ \
		-x c++ - || { echo "$<: does not compile on its own" >&2; exit 1; }
	@touch $@
-include $(HEADER_STAMPS:=.d)

lint:
	@tests/lint/lint.py

check: check-packages all tests
	@BUILD=$(BUILD) MAKE='$(MAKE)' tests/run.py

# The sanitizers watch the test programs and a firmware boot; whole kernels take too long under them.
check-asan:
	@$(MAKE) --no-print-directory BUILD=build-asan SANITIZE=address,undefined check-sanitized
check-tsan:
	@$(MAKE) --no-print-directory BUILD=build-tsan SANITIZE=thread check-sanitized
check-sanitized: check-packages all tests
	@BUILD=$(BUILD) MAKE='$(MAKE)' tests/run.py programs boot:firmware
.PHONY: check-sanitized

bench: bench-packages all
	@BUILD=$(BUILD) tests/bench/bench.py $(ARGS)

demo: demo-packages all
	@BUILD=$(BUILD) tests/demo $(ARGS)

# --- installation --------------------------------------------------------------------------------
MANUALS := $(wildcard man/*.[1-8])
manual_path = $(DESTDIR)$(PREFIX)/share/man/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))
man: all
	@BUILD=$(BUILD) tests/manual.py
install: all
	@$(foreach p,$(PROGRAMS),install -D -m 755 $(p) $(DESTDIR)$(PREFIX)/bin/$(notdir $(p));)
	@$(foreach m,$(MANUALS),install -D -m 644 $(m) $(call manual_path,$(m));)
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/rhea $(wildcard README.md LICENSE)
uninstall: config.mk
	@rm -f $(foreach p,$(PROGRAMS),$(DESTDIR)$(PREFIX)/bin/$(notdir $(p))) \
		$(foreach m,$(MANUALS),$(call manual_path,$(m)))
	@rm -rf $(DESTDIR)$(PREFIX)/share/doc/rhea

dist:
	@git archive --format=tar.gz --prefix=rhea-$(VERSION)/ -o rhea-$(VERSION).tar.gz HEAD
	@echo "rhea-$(VERSION).tar.gz (what is committed)"

clean:
	@rm -rf build build-asan build-tsan
distclean: clean
	@rm -f config.mk

# For editors and clang tools.
compile_commands.json: config.mk
	@{ echo '['; sep=; for f in $(ALL_SOURCES); do printf '%s{"directory":"%s","file":"%s",' "$$sep" "$(CURDIR)" $$f; \
		printf '"command":"%s -c %s"}\n' '$(filter-out $(CCACHE),$(COMPILE))' $$f; sep=,; done; echo ']'; } >$@

help:
	@echo 'make                   the programs, $(BUILD)/rhea and $(BUILD)/rhea-img'
	@echo 'make demo              boot a Debian kernel to a shell (ARGS=--check: unattended)'
	@echo 'make check             every test: unit, device, against the host CPU, real guests, lint'
	@echo 'make tests             only build the test programs, $(BUILD)/tests/*'
	@echo 'make check-asan        the tests under AddressSanitizer and UBSan (build-asan/)'
	@echo 'make check-tsan        the tests under ThreadSanitizer (build-tsan/)'
	@echo 'make check-headers     every header compiles on its own'
	@echo 'make lint              include floors, layout, names'
	@echo 'make bench             speed beside QEMU TCG, as a table and as JSON (ARGS=--help)'
	@echo 'make man               renew the options in man/rhea.1 from the program'
	@echo 'make install           to PREFIX (./configure --prefix=DIR), DESTDIR is honoured'
	@echo 'make uninstall, clean, distclean, dist, compile_commands.json'
	@echo './configure --help     what can be switched'
