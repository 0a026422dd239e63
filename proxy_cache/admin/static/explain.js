// The search box: what is stored of a URL, and what a request for it would get.

import { call, onSubmit } from "./api.js";
import { byId, element, showRows } from "./dom.js";
import { bytes, count, instant } from "./format.js";

function query() {
  const parameters = new URLSearchParams({ url: byId("explain-url").value.trim() });
  for (const line of byId("explain-headers").value.split("\n")) {
    if (line.trim()) parameters.append("header", line.trim());
  }
  return parameters;
}

/** A sentence with the section of the standard that says so. */
function sentence({ text, rfc }) {
  return rfc ? [`${text} `, element("cite", {}, rfc)] : [text];
}

const COLUMNS = [
  { head: true, text: ({ variant, selected }) => selecting(variant) + (selected ? " (this request's)" : "") },
  { text: (one) => `${one.status}, ${one.state}` },
  { num: true, text: (one) => bytes(one.size) },
  { text: (one) => instant(one.fresh_until) },
  { draw: (cell, one) => cell.replaceChildren(...sentence(one.freshness_rule)) },
];

/** The request headers that select a variant. */
function selecting(variant) {
  const fields = Object.entries(variant);
  return fields.length ? fields.map(([field, value]) => `${field}: ${value ?? "(absent)"}`).join(", ") : "For all requests";
}

function variants(stored) {
  const heads = ["Variant", "Status", "Size", "Fresh until", "By"];
  const table = element(
    "table", {},
    element("caption", {}, "Stored variants"),
    element("thead", {}, element("tr", {}, ...heads.map((text, at) => element("th", { scope: "col", class: at === 2 ? "num" : "" }, text)))),
    element("tbody"),
  );
  const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Stored variants" }, table);
  showRows(table, stored, COLUMNS);
  return box;
}

function shown(found) {
  const parts = [element("h3", {}, "Verdict: ", element("strong", { class: "verdict" }, found.verdict))];
  parts.push(element("ul", {}, ...found.sentences.map((one) => element("li", {}, ...sentence(one)))));
  if (found.not_stored) {
    const { reason, at } = found.not_stored;
    parts.push(element("p", {}, `Not stored (${reason}, ${instant(at)}): `, ...sentence(found.not_stored)));
  }
  if (found.stored.length) parts.push(variants(found.stored));
  if (found.recent.length) {
    parts.push(element("h4", {}, "What happened before"));
    const lines = found.recent.map((one) => element("li", {}, `${instant(one.at)}: `, ...sentence(one), repeated(one)));
    parts.push(element("ul", {}, ...lines));
  }
  return parts;
}

const repeated = ({ times }) => (times > 1 ? ` (${count(times)} times)` : "");

/** Returns a function that explains a URL as if it had been typed in. */
export function startExplaining() {
  const form = byId("explain");
  onSubmit(form, byId("explanation"), async () => shown(await call(`explain?${query()}`)));
  return (url) => {
    byId("explain-url").value = url;
    byId("explain-url").focus();
    form.requestSubmit();
  };
}
