-- One durable file: written in tmp/, flushed, renamed to new/, and new/
-- flushed. Runs in a worker of nginx or in one of its threads.

local ffi = require "ffi"

ffi.cdef [[
    int open(const char *name, int flags, ...);
    long write(int fd, const void *bytes, size_t n);
    int fdatasync(int fd);
    int fsync(int fd);
    int close(int fd);
    int rename(const char *from, const char *to);
    char *strerror(int error);
]]

local C = ffi.C
local WRITE = 1 + 64 + 128 + 524288         -- O_WRONLY O_CREAT O_EXCL O_CLOEXEC
local DIRECTORY = 65536 + 524288            -- O_DIRECTORY O_CLOEXEC

local M = {}
local directories = {}


local function failed(call)
    return false, call .. " failed: " .. ffi.string(C.strerror(ffi.errno()))
end

function M.write(spool, name, content)
    local new = directories[spool]

    if not new then
        new = C.open(spool .. "/new", DIRECTORY)

        if new == -1 then
            return failed("open()")
        end

        directories[spool] = new
    end

    local from, to = spool .. "/tmp/" .. name, spool .. "/new/" .. name
    local fd = C.open(from, WRITE, ffi.cast("int", 384))

    if fd == -1 then
        return failed("open()")
    end

    local written = C.write(fd, content, #content)

    if written ~= #content or C.fdatasync(fd) == -1 then
        C.close(fd)
        return failed("write()")
    end

    if C.close(fd) == -1 or C.rename(from, to) == -1 or C.fsync(new) == -1 then
        return failed("rename()")
    end

    return true
end


return M
