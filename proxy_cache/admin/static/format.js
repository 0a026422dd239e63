// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
/** Between a number and its unit, where no line may break. */
const GAP = "\u00a0";
const plain = new Intl.NumberFormat("en");

/** `1234` → `1,234`; what is unknown is a dash. */
export const count = (number) => (Number.isFinite(number) ? plain.format(number) : "–");

/** Bytes with three digits, in powers of 1024 as the options have them: `1.23 MiB`, but `1010 KiB`. */
export function bytes(size) {
  if (!Number.isFinite(size)) return "–";
  let unit = 0;
  // 1023.5 would be shown as 1024.
  while (Math.abs(size) >= 1023.5 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(size) >= 99.95 ? 0 : Math.abs(size) >= 9.995 ? 1 : 2;
  return size.toFixed(digits) + GAP + UNITS[unit];
}

/** A ratio of 0 to 1 as `93.1 %`. Only all of it is 100 %. */
export function percent(ratio) {
  if (!Number.isFinite(ratio)) return "–";
  const tenths = Math.floor(ratio * 1000 + 1e-9);
  return `${(tenths / 10).toFixed(tenths === 0 || tenths === 1000 ? 0 : 1)}${GAP}%`;
}

/** Seconds as `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)}${GAP}s`;
  const whole = Math.round(seconds);
  const pairs = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  for (const [large, largeName, small, smallName] of pairs) {
    if (whole >= large) {
      const rest = Math.floor((whole % large) / small);
      const parts = [Math.floor(whole / large), largeName, ...(rest ? [rest, smallName] : [])];
      return parts.join(GAP);
    }
  }
  return `${whole}${GAP}s`;
}

/** A time in ISO 8601 as the browser's language has it. */
export function instant(text) {
  const date = new Date(text ?? NaN);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString();
}

/** `1 entry`, `2 entries`. */
export const counted = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
