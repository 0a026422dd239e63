// Purging. The token is in its field and nowhere else: it goes when the page does.

import { call, onSubmit } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { bytes, counted } from "./format.js";

const LABELS = { url: "URL", host: "Host", match: "Pattern, such as http://*.example/*.deb", tag: "Tag", all: "" };

function showKind() {
  const isAll = byId("purge-by").value === "all";
  const value = byId("purge-value");
  setText(byId("purge-label"), LABELS[byId("purge-by").value]);
  value.parentElement.hidden = value.disabled = isAll;
  byId("purge-sure-line").hidden = !isAll;
  byId("purge-sure").required = isAll;
  byId("purge-sure").checked = false;
}

async function purge() {
  const kind = byId("purge-by").value;
  const body = { [kind]: kind === "all" ? true : byId("purge-value").value.trim() };
  if (byId("purge-soft").checked) body.soft = true;
  const purged = await call("purge", {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${byId("purge-token").value.trim()}` },
    body: JSON.stringify(body),
  });
  byId("purge-sure").checked = false;
  const what = `${counted(purged.purged, "entry", "entries")} (${bytes(purged.bytes)})`;
  const fills = purged.fills ? `, and ${counted(purged.fills, "running fill", "running fills")} will not be kept` : "";
  return [element("p", {}, body.soft ? `${what} made stale${fills}.` : `${what} purged${fills}.`)];
}

export function startPurging() {
  byId("purge-by").addEventListener("change", showKind);
  showKind();
  onSubmit(byId("purge"), byId("purged"), purge);
}
