// Small line charts as SVG. A line is told from another by its dashes, too, and the legend has the last values as text.

import { element, setText } from "./dom.js";
import { duration } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 90;

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** 1, 2 or 5 times a power of ten of a unit, which is a power of `base`, that is not below `value`. */
export function niceMaximum(value, base) {
  if (!(value > 0)) return 1;
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  const number = value / unit;
  const power = 10 ** Math.floor(Math.log10(number));
  const found = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= number * (1 - 1e-9));
  return Math.min(found, base) * unit;
}

export class Chart {
  /**
   * `lines`: the names of up to three lines; `format`: of a value; `maximum`: of the scale, by default as needed;
   * `base`: of the units that `format` has.
   */
  constructor(figure, { title, lines, format, maximum, base = 1000 }) {
    this.title = title;
    this.lines = lines;
    this.format = format;
    this.maximum = maximum;
    this.base = base;
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
    for (const y of [0.5, HEIGHT / 2, HEIGHT - 0.5]) {
      this.picture.append(svg("path", { d: `M0 ${y}H${WIDTH}`, class: "grid" }));
    }
    this.paths = lines.map((_, number) => svg("path", { class: `line line-${number}` }));
    this.picture.append(...this.paths);
    this.top = element("span");
    this.since = element("span");
    const axis = element("p", { class: "axis muted", "aria-hidden": "true" }, this.top, this.since);
    this.values = lines.map(() => element("span", { class: "value" }));
    figure.querySelector(".legend").append(
      ...lines.map((name, number) => element("span", { class: `key key-${number}` }, `${name} `, this.values[number])),
    );
    figure.append(axis, this.picture);
  }

  /** Each line is a list of `[seconds, value]`; the right edge is `now`, the left one `span` seconds before. */
  draw(now, span, lines) {
    const highest = Math.max(0, ...lines.flat().map(([, value]) => value));
    const top = this.maximum ?? niceMaximum(highest, this.base);
    setText(this.top, this.format(top));
    setText(this.since, `last ${duration(span)}`);
    const told = lines.map((points, number) => {
      const last = points.at(-1)?.[1] ?? NaN;
      this.paths[number].setAttribute("d", path(points, now, span, top));
      setText(this.values[number], this.format(last));
      return `${this.lines[number]} ${this.format(last)}`;
    });
    this.picture.setAttribute("aria-label", `${this.title}: ${told.join(", ")}, at most ${this.format(highest)}`);
  }
}

function path(points, now, span, top) {
  return points
    .map(([at, value], number) => {
      const x = Math.max(0, WIDTH * (1 - (now - at) / span));
      const y = 1 + (HEIGHT - 2) * (1 - Math.min(value / top, 1));
      return `${number ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}
