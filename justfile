# Every recipe runs in the project's own virtual environment, whether it is on PATH or not. VENV names another one:
#   VENV=.venv-newer just test
venv := env("VENV", ".venv")
bin := venv / "bin"
python := quote(bin / "python")
# Two tests at a time for each core, four at most. (`just test -n 0`: one after the other.) What a module is compiled to
# is written where Python writes it, whatever the environment says: hundreds of processes would compile it again.
pytest := "PYTHONDONTWRITEBYTECODE= " + python + " -m pytest -n auto --maxprocesses 4 --dist worksteal"

set positional-arguments

# List the recipes
default:
    @{{ quote(just_executable()) }} --list

# Start the proxy on its defaults; further arguments go to mitmdump
run *arguments:
    {{ quote(bin / "mitmdump") }} -s addons/cache.py "$@"

# Run the whole test suite; further arguments go to pytest
test *arguments:
    {{ pytest }} "$@"

# Run only the tests about the limiter, coalescing and the cache
test-cache-proxy *arguments:
    {{ pytest }} tests/test_limiter.py tests/test_coalescing.py tests/test_cache.py tests/unit tests/semantics "$@"

# Run the whole suite COUNT times, a line each; `--beside-load 2`: the last two beside a load on all cores (--help: more)
test-repeatedly *arguments:
    {{ python }} tests/repeatedly.py "$@"

# Everything at once for SECONDS, every byte checked, with figures (600; SOAK_CLIENTS: how many clients, 24)
soak seconds="600":
    SOAK_SECONDS={{ quote(seconds) }} {{ python }} -m pytest -n 0 -s -m slow tests/test_soak.py

# Mutated ClientHellos and CONNECTs, COUNT of each (100,000: about an hour; --help: more)
fuzz *arguments:
    {{ python }} tests/fuzz.py "$@"

# Check style, format and types
lint:
    {{ python }} -m ruff check .
    {{ python }} -m ruff format --check .
    {{ python }} -m mypy

# Make the screenshots of the status page in docs/images again (about 2 minutes)
screenshots *arguments:
    {{ python }} -m tests.support.screenshots "$@"

# Print the files and functions that a hit, a miss, a range and a queued client go through, in order
trace:
    {{ python }} -m tests.support.trace

# Draw docs/dashboard.svg: the dashboard's queries, answered by a real Prometheus after a storm (about 2 minutes)
dashboard-picture *arguments:
    {{ python }} -m tests.dashboard_picture docs/dashboard.svg "$@"

# Compare with a textbook mitmproxy addon and with plain mitmdump (about 5 minutes; --quick: 1; --help: more)
bench *arguments:
    {{ python }} benchmarks/run.py "$@"

# Compare this checkout with a commit (or another checkout), in alternating runs (about 5 minutes; --help: more)
bench-ab *arguments:
    {{ python }} benchmarks/ab.py "$@"

# What peers cost: a peer hit, a miss by way of its home, hits and misses of one's own (about 5 minutes; --help: more)
bench-fleet *arguments:
    {{ python }} benchmarks/fleet.py "$@"

# Compare with nginx, Squid, Varnish, Traffic Server and a textbook addon (about 15 minutes; --quick: 3; --help: more)
bench-peers *arguments:
    {{ python }} benchmarks/peers.py "$@"

# Two workers beside one: hits, misses, and what CPU they take (about 3 minutes; --help: more)
bench-workers *arguments:
    {{ python }} benchmarks/workers.py "$@"

# TLS that ends here, compared with nginx, Squid and mitmproxy (about 12 minutes; --quick: 2; --help: more)
bench-tls *arguments:
    {{ python }} benchmarks/tls.py "$@"
