// The status page: a status a second (live.js), shown in overview.js; explain.js and purge.js are its forms.

import { byId, setText } from "./dom.js";
import { startExplaining } from "./explain.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { Overview } from "./overview.js";
import { startPurging } from "./purge.js";

const STATES = {
  lost: "No connection to the proxy. Trying again …",
  refused: "Too many pages listen: updated every few seconds",
  paused: "Paused",
};

const history = new History();
const overview = new Overview(startExplaining());
let isReady = true;

// A live region: it is read out when it changes, so it has no numbers.
function showState(state) {
  const text = STATES[state] ?? (isReady ? "Live" : "The proxy is not ready: it starts or stops");
  byId("state").dataset.state = state === "live" && !isReady ? "unready" : state;
  setText(byId("state").querySelector(".text"), text);
}

const live = new Live({
  onStatus(status) {
    isReady = status.ready;
    history.add(status);
    overview.show(status, history);
    if (byId("state").dataset.state !== "refused") showState("live");
  },
  onState: showState,
});

byId("pause").addEventListener("click", () => {
  const isPaused = byId("pause").getAttribute("aria-pressed") !== "true";
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  live.pause(isPaused);
});

startPurging();
live.update();
