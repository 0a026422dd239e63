// The search box: what is stored of a URL, and what a request for it would get.

import { call, onSubmit } from "./api.js";
import { byId, element, showRows } from "./dom.js";
import { bytes } from "./format.js";

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
  { head: true, text: ({ variant }) => selecting(variant) },
  { text: ({ status }) => String(status ?? "–") },
  { num: true, text: (one) => bytes(one.size ?? one.size_bytes) },
  { text: ({ fresh_until }) => instant(fresh_until) },
  { text: ({ freshness_rule }) => rule(freshness_rule) },
];

/** The request headers that select a variant: they may be at any depth of what the API says. */
function selecting(variant) {
  const fields = Object.entries(variant?.vary ?? variant ?? {});
  return fields.length ? fields.map(([field, value]) => `${field}: ${value ?? "(absent)"}`).join(", ") : "for all requests";
}

function instant(value) {
  if (value === null || value === undefined) return "–";
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? String(value) : date.toLocaleString();
}

const rule = (value) => (typeof value === "string" ? value : [value?.text, value?.rfc].filter(Boolean).join(" ") || "–");

function variants(stored) {
  const heads = ["Variant", "Status", "Size", "Fresh until", "Why"];
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
  parts.push(element("ul", {}, ...(found.sentences ?? []).map((one) => element("li", {}, ...sentence(one)))));
  if (found.not_stored) {
    const { reason, at } = found.not_stored;
    parts.push(element("p", {}, `Not stored (${reason}, ${instant(at)}): `, ...sentence(found.not_stored)));
  }
  if (found.stored?.length) parts.push(variants(found.stored));
  return parts;
}

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
