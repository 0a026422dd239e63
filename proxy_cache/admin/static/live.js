// The stream of statuses. It is closed while nobody looks: the server works for listeners only.

/** Milliseconds until another try, if the server refuses the stream. */
const RETRY = 5000;

export class Live {
  /**
   * `onStatus(status)`: once a second; `onState(state)`: `live`, `lost`, `refused` or `paused`. Where there is no
   * stream to be had (too many listen), the status is asked for now and then.
   */
  constructor({ onStatus, onState }) {
    this.onStatus = onStatus;
    this.onState = onState;
    this.isPaused = false;
    this.source = null;
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.update());
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", () => this.update());
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.update();
  }

  update() {
    if (this.isPaused || document.hidden) {
      this.close();
      if (this.isPaused) this.onState("paused");
    } else if (this.source === null && this.timer === null) {
      this.open();
    }
  }

  open() {
    this.timer = null;
    const source = new EventSource("api/v1/events");
    this.source = source;
    source.addEventListener("status", (event) => {
      this.onState("live");
      this.onStatus(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      if (source.readyState === EventSource.CLOSED) this.refused();
      else this.onState("lost"); // the browser tries again
    });
  }

  async refused() {
    this.close();
    this.timer = setTimeout(() => this.open(), RETRY);
    try {
      const response = await fetch("api/v1/status");
      if (!response.ok) throw new Error(response.statusText);
      const status = await response.json();
      if (this.timer === null) return; // closed meanwhile
      this.onState("refused");
      this.onStatus(status);
    } catch {
      this.onState("lost");
    }
  }

  close() {
    clearTimeout(this.timer);
    this.timer = null;
    this.source?.close();
    this.source = null;
  }
}
