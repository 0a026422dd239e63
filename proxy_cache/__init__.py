"""A caching forward proxy for build agents, as a mitmproxy addon.

Cacheable GETs are answered from a disk cache; misses of one key share one origin request (a *fill*), and at most
``origin_max_in_flight`` fills run at once, the rest waiting in a queue that is fair between clients. A fill belongs
to the cache and not to a client: it writes at the origin's speed, and every client reads along from the first byte.

Imports go down this list and never up; only the first two points know mitmproxy:

- ``addon`` (hooks in, cache out), ``addon_clients`` (who connects, and who hears of it), ``addon_lane``,
  ``addon_flows``, ``addon_hooks``, ``addon_account`` (how requests end) and ``addon_log``, ``addon_process``,
  ``addon_requests`` (our hooks after all others'), ``addon_rules`` (rules → ``Policy``), ``addon_rule_syntax`` (what
  they look like) and ``addon_filters`` (mitmproxy's filters, compiled), ``addon_start`` (what is said at the start),
  ``addon_reload`` (SIGHUP: ``addon_option_file``, which is config.yaml read again, and ``log_files``),
  ``addon_trust`` (mitmproxy's certificates are ours);
- ``layers`` (streamed responses, what is forwarded), ``layers_heads`` and ``layers_http1`` (its heads, and its
  connections), ``layers_requests`` and ``layers_framing`` (what a request asks for, where a response ends),
  ``layers_hygiene``, ``layers_chunks`` and ``layers_trailers`` (what of them may come in, as bytes), ``layers_early``
  (answers before a body has come), ``layers_repeat`` and ``layers_sent`` (requests that go twice),
  ``layers_last_words`` (connections that break), ``layers_timeouts`` (origins that say nothing), ``layers_outcome``
  (who broke off), ``layers_backpressure``,
  ``layers_max_forwards``, ``layers_tls`` (how TLS ends), ``layers_tunnel`` (CONNECT), ``options``, ``option_names``
  (those that nobody knows);
- ``lane`` (plain GETs without flows), ``delivery`` (bodies to sockets), ``outcome`` (how a request ended, in words);
- ``admin`` and ``listening`` (its port), ``metrics``;
- ``cache`` (the way of one GET), ``ready`` (hits that take no work), ``selection`` (what of a body is wanted), ``gaps``
  (readers of what is stored in part), ``answer_heads``, ``answers`` (what they give), ``http1`` (requests and heads as
  bytes);
- ``insisting`` (requests that take no earlier answer);
- ``fill_table`` (which fills run, what is remembered of keys), ``known_heads`` (heads without bodies), ``fills`` (one
  of them), ``audience`` (who is given what is not stored), ``ahead`` (what lies far ahead of one), ``parts`` (spans
  that are asked for), ``copying`` (bodies from the origin into the store), ``waiter`` (who wants one), ``watch`` (fills
  that get nowhere), ``limiter``, ``limiter_waits``;
- ``origin`` (one exchange, with its retries), ``origin_connection``, ``origin_response``, ``outgoing`` (the head of any
  request that leaves), ``names`` (their addresses), ``trust`` (whose certificates are good);
- ``log_output`` (logs that hold nobody up), ``hangup`` (SIGHUP as it comes), ``collector`` (when Python's collector
  runs);
- ``loop`` (short turns of the event loop, and reads past it), ``stages`` (alike things one after the other);
- ``store`` (index, bodies and their checksums, eviction, pipes), ``semantics`` (RFC 9110 and 9111 as pure functions).
"""

__version__ = "0.1.0"
