# Read by make after nginx's own objs/Makefile.

objs/addon/%.o: CFLAGS += $(ADDON_CFLAGS)
