# The module for the nginx of this Debian, its tests and its demo.
# nginx's own build needs none of this: ./configure --add-dynamic-module=DIR

SHELL = /bin/sh

# what `make test` builds and runs the tests on
VARIANTS = debian static nothreads clang trixie

# another nginx to build and test with: make test NGINX_SRC=/path/to/nginx;
# with a NAME it is kept beside others: build/custom-NAME
NGINX_SRC =
NAME =

# which tests: make test TESTS=t/receive_json.t
TESTS =

export TESTS NGINX_SRC


all:
	@t/build/debian.sh

help:
	@echo "make            build the dynamic module for the installed nginx"
	@echo "make demo       a complete example with the sender's own event"
	@echo "make check      what a change needs: the quick tests, in 3 minutes"
	@echo "make test       build all variants and run the tests on each"
	@echo "make bench      how fast it acknowledges and forwards, beside nginx alone"
	@echo "make torture    kills, power cuts, errors, mutants, fuzzers, and a table"
	@echo "make mutants    faults at random in the sources, and which test finds each"
	@echo "make trial      install it in all ways, each on a Debian of its own"
	@echo "make coverage   which lines and branches the tests execute"
	@echo "make deps       install the Debian packages that are missing"
	@echo "make install    copy the module to nginx's modules"
	@echo "make deb        build the Debian package, in build/"
	@echo "make clean      remove build/"
	@echo
	@echo "make test VARIANTS=static TESTS=t/receive_json.t    a part of it"
	@echo "make torture LONG=10                        for hours"
	@echo "make mutants N=40 SEED=1                    how many, and which"
	@echo "make test NGINX_SRC=/path/to/nginx          with other sources"

# how long the faults go on: 1 is about 15 minutes, 10 is for a release
LONG = 1

export LONG

# how many mutants, and which: the same SEED gives the same ones
N = 40
SEED = 1

deps:
	@t/build/deps.sh test

test:
	@t/build/deps.sh test
	@t/build/test.sh $(if $(NGINX_SRC),custom$(NAME:%=-%),$(VARIANTS))

# A test that takes long says so in its head, "# slow: why"; all others are quick.
# They wait more than they work, so there are more of them than processors. The
# largest begin first, so that none runs alone at the end.

check:
	@t/build/deps.sh test
	@TESTS="$$(ls -S $$(grep -L '^# slow: ' t/*.t))" \
	    PROVE="$${PROVE:-prove -j $$(($$(nproc) * 2))}" t/build/test.sh debian

demo:
	@t/build/deps.sh build
	@t/build/debian.sh
	@t/demo/demo.sh

coverage:
	@t/build/deps.sh test
	@t/build/coverage.sh

bench:
	@t/build/deps.sh bench
	@t/build/debian.sh
	@t/bench/bench.pl

torture:
	@t/build/deps.sh torture
	@t/build/debian.sh
	@t/torture/torture.pl $(notdir $(TESTS))

mutants:
	@t/build/deps.sh torture
	@t/torture/random_mutants.pl $(N) $(SEED)

trial:
	@t/build/deps.sh trial
	@t/trial/trial.pl $(WAYS)

install: all
	@t/build/install.sh

deb:
	@t/build/deps.sh deb
	@t/build/deb.sh

clean:
	rm -rf build

.PHONY: all help deps check test coverage demo bench torture mutants trial \
        install deb clean
