-- wrk as a client of a forward proxy: the request line carries the whole URL.
-- BENCH_URL: what to ask for. BENCH_RANGE: which bytes of it. BENCH_DISTINCT: if set, every request asks for a URL of its own, "URL/<distinct>-<n>".
-- BENCH_LIST: a file with a URL on each line: they are asked for by turns, and over again from the first after the last.
-- BENCH_ORIGIN_FORM: if set, the request line has only the path, as a reverse proxy wants it.

local url = os.getenv("BENCH_URL")
local distinct = os.getenv("BENCH_DISTINCT")
local list = os.getenv("BENCH_LIST")

wrk.headers["Host"] = url:match("^http://([^/]+)")
wrk.headers["Range"] = os.getenv("BENCH_RANGE")

if os.getenv("BENCH_ORIGIN_FORM") then
   url = url:match("^http://[^/]+(/.*)")
end
wrk.path = url

if distinct then
   local threads = 0
   local count = 0

   function setup(thread)
      thread:set("number", threads)
      threads = threads + 1
   end

   function request()
      count = count + 1
      return wrk.format("GET", url .. "/" .. distinct .. "-" .. number .. "-" .. count)
   end
end

if list then
   local urls = {}
   local requests = {}
   local turn = 0

   for line in io.lines(list) do
      urls[#urls + 1] = line
   end

   function request()
      turn = turn % #urls + 1
      requests[turn] = requests[turn] or wrk.format("GET", urls[turn])
      return requests[turn]
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "microseconds": %d, "bytes": %d, "bad_status": %d, "socket_errors": %d, "timeouts": %d, "p99_microseconds": %d}\n',
      summary.requests, summary.duration, summary.bytes, errors.status,
      errors.connect + errors.read + errors.write, errors.timeout,
      latency:percentile(99)
   ))
end
