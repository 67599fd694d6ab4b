# fuzz.sh calls it in the directory where the targets go. MODE is fuzz or
# replay, NGINX a configured tree of nginx.

FUZZ = $(TOP)/t/fuzz

TARGETS = payload line timestamp text signature
BINARIES = $(TARGETS) $(if $(filter replay,$(MODE)),accept)

CC_replay = gcc
CC_fuzz = clang

SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
MODE_fuzz = -fsanitize=fuzzer-no-link
LINK_fuzz = -fsanitize=fuzzer

# Each allocation from a pool is one of malloc, so that an overrun is seen. The
# linker drops what is not called: nginx's files need no others then.

CC = $(CC_$(MODE))
CFLAGS = -std=gnu11 -O1 -g -fno-omit-frame-pointer -ffunction-sections \
	-fdata-sections -D_GNU_SOURCE -DNGX_DEBUG_PALLOC=1 \
	-Wall -Wextra -Wno-unused-parameter -Werror $(SANITIZE) \
	-I$(NGINX)/src/core -I$(NGINX)/src/event \
	-I$(NGINX)/src/os/unix -I$(NGINX)/objs -I$(TOP)/src -I$(TOP)/src/event -I$(FUZZ)
LDFLAGS = $(SANITIZE) -Wl,--gc-sections -Wl,--wrap=malloc
LIBS = -lyajl -lcrypto

MODULE = $(patsubst %,ngx_http_taptalent_%.o,event json line signature verdict)
CORE = $(patsubst %,ngx_%.o,string palloc array times alloc)
COMMON = $(MODULE) $(CORE) fuzz.o

vpath %.c $(FUZZ) $(TOP)/src/event $(NGINX)/src/core $(NGINX)/src/os/unix


all: $(BINARIES)

# What libFuzzer looks for is new ways through the module. nginx's own code is
# excused from two checks, see variant.sh.

$(MODULE) $(TARGETS:=.o): CFLAGS += $(MODE_$(MODE))
$(CORE): CFLAGS += -fno-sanitize=alignment,nonnull-attribute

$(TARGETS): %: %.o $(COMMON) $(if $(filter replay,$(MODE)),replay.o)
	$(CC) $(LDFLAGS) $(LINK_$(MODE)) -o $@ $^ $(LIBS)

accept: accept.o $(COMMON)
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

%.o: %.c
	$(CC) $(CFLAGS) -MMD -c -o $@ $<

-include $(wildcard *.d)

.SECONDARY:
