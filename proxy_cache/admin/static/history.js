// What the charts show: a sample for each status, kept by the page alone.

/** Seconds that are kept. */
const WINDOW = 300;
/** Seconds that the current hit ratio looks back. */
export const RECENT = 60;

/** A counter's growth a second between two samples. (What fills have brought is gone with one that fails.) */
const rate = (before, after, name) => Math.max(0, after[name] - before[name]) / (after.at - before.at);

/** Bytes that running fills have got from origins: the total has them at their end. */
function onTheWay(fills) {
  return fills.reduce((sum, fill) => sum + (fill.source === "origin" ? fill.bytes : 0), 0);
}

export class History {
  constructor() {
    this.samples = [];
    this.startedAt = null;
    /** The errors by kind in the first status. */
    this.firstErrors = {};
  }

  add(status) {
    const totals = status.totals ?? {};
    if (status.started_at !== this.startedAt) {
      // Counters begin anew with the process.
      this.startedAt = status.started_at;
      this.samples = [];
      this.firstErrors = totals.errors ?? {};
    }
    const last = this.samples.at(-1);
    if (last && status.uptime_seconds <= last.at) return;
    this.samples.push({
      at: status.uptime_seconds,
      hits: totals.hits ?? 0,
      misses: totals.misses ?? 0,
      served: totals.bytes_served ?? 0,
      origin: (totals.origin_bytes ?? 0) + onTheWay(status.fills ?? []),
      saved: totals.bytes_saved ?? 0,
      queued: status.limiter?.queued ?? 0,
      slots: status.limiter?.in_flight ?? 0,
    });
    while (this.samples[1] && this.samples[1].at < status.uptime_seconds - WINDOW) this.samples.shift();
  }

  /** The hit ratio of the last minute; NaN without requests. */
  recentRatio() {
    const last = this.samples.at(-1);
    return last ? ratio(this.samples.find((one) => one.at >= last.at - RECENT), last) : NaN;
  }

  /** The hit ratio of each interval with requests, as `[seconds, ratio]`. */
  ratios() {
    return this.intervals((before, after) => ratio(before, after)).filter(([, value]) => Number.isFinite(value));
  }

  /** A counter's growth a second, as `[seconds, rate]`. */
  rates(name) {
    return this.intervals((before, after) => rate(before, after, name));
  }

  /** A counter's growth a second in the last interval. */
  recentRate(name) {
    return this.rates(name).at(-1)?.[1] ?? 0;
  }

  /** Seconds that a chart spans: the charts of a page that was just opened need not be empty. */
  span() {
    const seconds = this.samples.length ? this.samples.at(-1).at - this.samples[0].at : 0;
    return Math.min(Math.max(60 * Math.ceil(seconds / 60), 60), WINDOW);
  }

  /** A gauge, as `[seconds, value]`. */
  values(name) {
    return this.samples.map((sample) => [sample.at, sample[name]]);
  }

  intervals(value) {
    return this.samples.slice(1).map((after, number) => [after.at, value(this.samples[number], after)]);
  }
}

/** Hits of all GETs between two samples. */
function ratio(before, after) {
  const hits = after.hits - before.hits;
  return hits / (hits + after.misses - before.misses);
}
