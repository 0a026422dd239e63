// Tiles, charts and tables from a status.

import { Chart } from "./chart.js";
import { byId, element, setText, showFacts, showRows } from "./dom.js";
import { bytes, count, counted, duration, instant, percent } from "./format.js";

const number = (text) => ({ num: true, text });
const name = (text) => ({ head: true, text });

function drawFill(cell, fill) {
  if (!cell.firstChild) cell.append(element("span"), element("small", { class: "muted" }));
  setText(cell.firstChild, fill.url);
  setText(cell.lastChild, [fill.state, fill.source && `from ${fill.source}`, fill.client && `for ${fill.client}`]
    .filter(Boolean).join(", "));
}

function drawProgress(cell, fill) {
  if (!cell.firstChild) cell.append(element("progress"), element("small"));
  const bar = cell.firstChild;
  bar.setAttribute("aria-label", `Progress of ${fill.url}`);
  bar.hidden = !fill.total;
  if (fill.total) {
    bar.max = fill.total;
    bar.value = fill.bytes;
    setText(cell.lastChild, `${bytes(fill.bytes)} of ${bytes(fill.total)}`);
  } else {
    setText(cell.lastChild, fill.state === "running" ? bytes(fill.bytes) : fill.state);
  }
}

function keyColumns(onExplain) {
  function draw(cell, entry) {
    if (!cell.firstChild) {
      const button = element("button", { type: "button", class: "link" });
      button.addEventListener("click", () => onExplain(button.textContent));
      cell.append(button);
    }
    setText(cell.firstChild, entry.url);
    cell.firstChild.title = "Explain";
  }
  return [{ head: true, draw }, number((one) => count(one.hits)), number((one) => bytes(one.bytes))];
}

const FILLS = [
  { head: true, draw: drawFill },
  { draw: drawProgress },
  number((fill) => count(fill.waiters)),
  number((fill) => duration(fill.seconds)),
];
const CLIENTS = [name((one) => one.client), number((one) => count(one.queued)), number((one) => count(one.in_flight))];
const HOSTS = [name((one) => one.host), number((one) => count(one.hits)), number((one) => bytes(one.bytes))];
const ERRORS = [name((one) => one.kind), number((one) => count(one.total)), number((one) => count(one.here))];
const PEERS = [
  name((peer) => (peer.is_self ? `${peer.url} (this one)` : peer.url)),
  { text: (peer) => (peer.reason ? `${peer.state}: ${peer.reason}` : peer.state) },
  number((peer) => count(peer.failures)),
];

export class Overview {
  /** `onExplain(url)`: a URL in a table was chosen. */
  constructor(onExplain) {
    this.keys = keyColumns(onExplain);
    this.ratio = new Chart(byId("chart-ratio"), { title: "Hit ratio", lines: ["of all GETs"], format: percent, maximum: 1 });
    const perSecond = (rate) => `${bytes(rate)}/s`;
    this.bytes = new Chart(byId("chart-bytes"), { title: "Bytes a second", lines: ["served", "from origins", "saved"], format: perSecond, base: 1024 });
    this.queue = new Chart(byId("chart-queue"), { title: "Slots and queue", lines: ["slots in use", "queued"], format: count });
  }

  show(status, history) {
    setText(byId("version"), status.version ?? "");
    this.showTiles(status, history);
    this.showCharts(status, history);
    this.showTables(status, history);
  }

  showTiles({ limiter = {}, store = {}, totals = {}, ...status }, history) {
    const max = limiter.max_in_flight;
    const tiles = {
      "hit-ratio": [percent(history.recentRatio()), `${percent(totals.hits / (totals.hits + totals.misses))} since the start`],
      saved: [bytes(totals.bytes_saved), `${bytes(history.recentRate("saved"))}/s now`],
      slots: [max ? `${count(limiter.in_flight)} of ${count(max)}` : count(limiter.in_flight), max ? "" : "no limit is set"],
      queued: [count(limiter.queued), limiter.queued ? `longest: ${duration(limiter.oldest_wait_seconds)}` : ""],
      "in-flight": [count(status.requests_in_flight), counted(status.tunnels, "tunnel", "tunnels")],
      stored: [bytes(store.size_bytes), counted(store.entries, "entry", "entries")],
    };
    for (const [id, [main, more]] of Object.entries(tiles)) {
      setText(byId(id), main);
      setText(byId(`${id}-more`), more);
    }
  }

  showCharts(status, history) {
    const now = status.uptime_seconds;
    const span = history.span();
    this.ratio.draw(now, span, [history.ratios()]);
    this.bytes.draw(now, span, [history.rates("served"), history.rates("origin"), history.rates("saved")]);
    this.queue.draw(now, span, [history.values("slots"), history.values("queued")]);
  }

  showTables({ limiter = {}, store = {}, totals = {}, top = {}, ...status }, history) {
    const fills = [...(status.fills ?? [])].sort((one, other) => other.seconds - one.seconds);
    setText(byId("fills-count"), count(status.fills_running ?? fills.length));
    showRows(byId("fills"), fills.slice(0, 20), FILLS);
    const clients = [...(limiter.clients ?? [])].sort((one, other) => other.queued - one.queued || other.in_flight - one.in_flight);
    showRows(byId("clients"), clients.slice(0, 20), CLIENTS);
    const errors = Object.entries(totals.errors ?? {}).filter(([, total]) => total > 0);
    const since = (kind, total) => total - (history.firstErrors[kind] ?? 0);
    showRows(byId("errors"), errors.map(([kind, total]) => ({ kind, total, here: since(kind, total) })), ERRORS);
    showRows(byId("keys"), top.keys ?? [], this.keys);
    showRows(byId("hosts"), top.hosts ?? [], HOSTS);
    showRows(byId("peers"), status.peers ?? [], PEERS);
    showFacts(byId("store"), storeFacts(store, totals, status));
    const shared = status.shared;
    showFacts(byId("shared"), shared ? sharedFacts(shared) : []);
    byId("shared").parentElement.querySelector(".empty").hidden = Boolean(shared);
    const { interception } = status;
    showFacts(byId("interception"), interception ? interceptionFacts(interception) : []);
    byId("interception").parentElement.hidden = !interception;
  }
}

const storeFacts = (store, totals, status) => [
  ["Size", `${bytes(store.size_bytes)} of ${bytes(store.capacity_bytes)} (${percent(store.size_bytes / store.capacity_bytes)})`],
  ["Entries", count(store.entries)],
  ["Free on the disk", bytes(store.disk_free_bytes)],
  ["Evicted since the start", count(totals.evictions)],
  ["Waiting to be written", count(store.unwritten)],
  ["Folder", store.dir ?? "–"],
  ["Running for", duration(status.uptime_seconds)],
];

function interceptionFacts({ hosts, connects, distrusting, ca, active }) {
  const outcomes = Object.entries(connects).filter(([, number]) => number > 0);
  const clients = distrusting.map(({ client, host }) => `${client} (${host})`);
  return [
    ["Hosts", hosts.join(", ")],
    ["CONNECTs", outcomes.map(([outcome, number]) => `${outcome} ${count(number)}`).join(", ") || "none yet"],
    ["CA is valid until", instant(ca.expires_at)],
    ["Clients that don't trust it", clients.slice(0, 10).join(", ") || "none"],
    ...(clients.length > 10 ? [["", `and ${count(clients.length - 10)} more`]] : []),
    ...(active ? [] : [["State", "switched off: see the proxy's log"]]),
  ];
}

const sharedFacts = (shared) => [
  ["Bucket", shared.url],
  ["Reading", shared.reading],
  ["Writing", `${shared.write}, ${shared.writing}`],
  ["Waiting to be written", `${count(shared.queued)}, ${bytes(shared.queued_bytes)}`],
];
