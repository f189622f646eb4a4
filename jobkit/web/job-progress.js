/**
 * <job-progress>: shows how a job of jobkit stands, and lets it be cancelled.
 *
 *   <script type="module" src="/-/job-progress.js"></script>
 *   <job-progress src="/-/jobs/ID?token=TOKEN" label="Your export"></job-progress>
 *
 * Attributes: src (the job's URL), label (its name for people), actions (which of
 * "cancel pause resume" have a button; default "cancel"), poll (never stream),
 * credentials (also send cookies to another origin).
 * Events, all bubbling: job-update and job-end (detail: the job's document),
 * job-action before a button acts (preventDefault stops it), job-error.
 * Style: ::part(base label state spinner bar fill message numbers stages stage
 * notice button), and the custom properties --job-progress-color, -good, -bad,
 * -warn, -track, -height, -radius. Text: JobProgress.texts.
 *
 * Everything that comes from the server is only ever set as text.
 */

const TEXTS = {
  label: "Job",
  SCHEDULED: "Scheduled",
  QUEUED: "Waiting to start",
  BLOCKED: "Waiting for its turn",
  RUNNING: "Running",
  RETRYING: "Waiting to try again",
  PAUSED: "Paused",
  SUCCEEDED: "Done",
  PARTIAL: "Done, with failures",
  DEAD: "Failed",
  CANCELLED: "Cancelled",
  loading: "Loading…",
  percent: "{percent} %",
  counted: "{current} of {total}",
  uncounted: "{current} so far",
  left: "about {time} left",
  failures: "{failed} failed",
  stage: "{name}: {state}",
  done: "done",
  current: "in progress",
  waiting: "not yet",
  starts: "Starts at {time}.",
  retries: "Something went wrong. Trying again in {time}.",
  retriesNow: "Something went wrong. Trying again now.",
  stale: "No sign of life for {time}. If it stopped, it goes on by itself.",
  later: "This takes a while. You can close this page and come back.",
  asked_cancel: "Cancelling…",
  asked_pause: "Pausing…",
  lost: "Connection lost. Trying again…",
  gone: "This job is not available.",
  refused: "That did not work. Please try again.",
  cancel: "Cancel",
  pause: "Pause",
  resume: "Resume",
};

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  :host { display: block; max-inline-size: 40rem; font: inherit; color: inherit; }
  :host([hidden]), [hidden] { display: none !important; }
  section {
    --fill: var(--job-progress-color, #2f6fed);
    --track: var(--job-progress-track, color-mix(in srgb, currentColor 16%, transparent));
    display: grid; gap: 0.5em; line-height: 1.4;
  }
  section[data-state=SUCCEEDED] { --fill: var(--job-progress-good, #1a9b52); }
  section[data-state=DEAD] { --fill: var(--job-progress-bad, #d93636); }
  section:is([data-state=PARTIAL], [data-state=RETRYING], [data-stale]) {
    --fill: var(--job-progress-warn, #c77700);
  }
  section:is([data-state=CANCELLED], [data-state=PAUSED]) {
    --fill: color-mix(in srgb, currentColor 55%, transparent);
  }
  .row { display: flex; flex-wrap: wrap; gap: 0 1em; justify-content: space-between; align-items: baseline; }
  .row > * { min-inline-size: 0; overflow-wrap: anywhere; }
  .label { font-weight: 600; }
  .numbers { font-variant-numeric: tabular-nums; }
  .message, .numbers, .notice { font-size: 0.9em; text-wrap: pretty; }
  .notice { margin: 0; padding-inline-start: 0.75em; border-inline-start: 3px solid var(--fill); }
  .meter { display: flex; align-items: center; gap: 0.75em; }
  .bar {
    flex: 1; overflow: hidden; block-size: var(--job-progress-height, 0.6em);
    border-radius: var(--job-progress-radius, 999px); background: var(--track);
  }
  .fill {
    block-size: 100%; inline-size: 0; border-radius: inherit; background: var(--fill);
    transition: inline-size 0.4s ease-out;
  }
  [data-unknown] .fill { inline-size: 30%; animation: slide 1.6s ease-in-out infinite alternate; }
  .spinner {
    inline-size: 1.4em; block-size: 1.4em; box-sizing: border-box; border-radius: 50%;
    border: 0.2em solid var(--track); border-block-start-color: var(--fill);
    animation: turn 0.9s linear infinite;
  }
  .stages { display: flex; flex-wrap: wrap; gap: 0.25em 1.25em; margin: 0; padding: 0; list-style: none; font-size: 0.9em; }
  .stages li { display: flex; gap: 0.4em; align-items: baseline; overflow-wrap: anywhere; }
  .stages li::before { content: "○" / ""; }
  .stages li[data-state=current] { font-weight: 600; }
  .stages li[data-state=current]::before { content: "◐" / ""; color: var(--fill); }
  .stages li[data-state=done]::before { content: "●" / ""; color: var(--fill); }
  .actions { display: flex; gap: 0.5em; }
  button {
    font: inherit; font-size: 0.9em; color: inherit; background: transparent; cursor: pointer;
    min-block-size: 2.2em; padding: 0.2em 0.9em; border-radius: 0.4em;
    border: 1px solid color-mix(in srgb, currentColor 45%, transparent);
  }
  button:hover { background: var(--track); }
  button:focus-visible { outline: 2px solid var(--fill); outline-offset: 2px; }
  button:disabled { opacity: 0.5; cursor: default; }
  .unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  @keyframes turn { to { rotate: 1turn; } }
  @keyframes slide { from { translate: -60% 0; } to { translate: 290% 0; } }
  @media (prefers-reduced-motion: reduce) {
    .fill { transition: none; }
    .spinner { animation-duration: 6s; }
    [data-unknown] .fill { animation: none; inline-size: 100%; opacity: 0.5; }
  }
  @media (forced-colors: active) {
    .bar { border: 1px solid CanvasText; }
    .fill { forced-color-adjust: none; background: Highlight; }
  }
`);

const ENDED = new Set(["SUCCEEDED", "PARTIAL", "DEAD", "CANCELLED"]);
const SILENT = 5_000; // a stream whose first event takes longer is held back on its way
const FAILURES = 3; // of a stream in a row, before it is polled instead
const POLLS = 15; // before a stream is tried again
const LONGEST = 30_000;

export class JobProgress extends HTMLElement {
  static observedAttributes = ["src", "label", "actions"];
  static texts = TEXTS;
  /** Browsers open six connections to a server at most: other elements poll. */
  static streams = 3;
  static #open = 0;

  #parts = {};
  #source = null;
  #timers = {};
  #aborter = null;
  #tag = "";
  #tries = 0;
  #polls = 0;
  #lost = false;
  #gone = false;
  #refused = false;
  #busy = false;
  #said = "";
  /** The newest document of the job; null before the first. */
  job = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    const add = (parent, tag, name, attributes = {}) => {
      const made = document.createElement(tag);
      made.className = name;
      made.setAttribute("part", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      this.#parts[name] = made;
      return parent.appendChild(made);
    };
    const base = add(root, "section", "base");
    const head = add(base, "div", "row");
    add(head, "span", "label", { id: "label" });
    add(head, "span", "state");
    const meter = add(base, "div", "meter", {
      role: "progressbar", "aria-labelledby": "label", "aria-valuemin": 0, "aria-valuemax": 100,
    });
    add(meter, "div", "spinner");
    add(add(meter, "div", "bar"), "div", "fill");
    const line = add(base, "div", "row");
    add(line, "span", "message");
    add(line, "span", "numbers");
    add(base, "ol", "stages");
    add(base, "p", "notice");
    const actions = add(base, "div", "actions");
    for (const action of ["cancel", "pause", "resume"]) {
      const button = add(actions, "button", action, { type: "button" });
      button.setAttribute("part", `button ${action}`);
      button.addEventListener("click", () => this.#act(action));
    }
    add(root, "div", "unseen", { role: "status", "aria-live": "polite" });
  }

  connectedCallback() {
    this.#restart();
  }

  disconnectedCallback() {
    this.#stop();
  }

  attributeChangedCallback(name, before, now) {
    if (!this.isConnected || before === now) return;
    if (name === "src") this.#restart();
    else this.#render();
  }

  // -- listening

  #restart() {
    this.#stop();
    this.job = null;
    this.#tag = this.#said = "";
    this.#tries = this.#polls = 0;
    this.#lost = this.#gone = this.#refused = this.#busy = false;
    this.#render();
    if (this.getAttribute("src")) this.#listen();
  }

  #stop() {
    this.#hangUp();
    this.#aborter?.abort();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
  }

  #hangUp() {
    if (!this.#source) return;
    this.#source.close();
    this.#source = null;
    JobProgress.#open -= 1;
  }

  #later(name, milliseconds, call) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(call, milliseconds);
  }

  #url(part = "") {
    const url = new URL(this.getAttribute("src"), document.baseURI);
    if (part) url.pathname = `${url.pathname.replace(/\/$/, "")}/${part}`;
    return url;
  }

  #listen() {
    const streams = "EventSource" in window && !this.hasAttribute("poll");
    if (!streams || JobProgress.#open >= JobProgress.streams) {
      this.#poll();
      return;
    }
    const withCredentials = this.hasAttribute("credentials");
    const source = new EventSource(this.#url("events"), { withCredentials });
    this.#source = source;
    JobProgress.#open += 1;
    const fallBack = () => {
      if (this.#source !== source) return;
      this.#hangUp();
      this.#polls = 0;
      this.#poll();
    };
    const told = (event) => {
      clearTimeout(this.#timers.silence);
      this.#tries = 0;
      this.#receive(event.data);
    };
    source.addEventListener("message", told);
    source.addEventListener("end", told);
    source.addEventListener("error", () => {
      this.#tries += 1;
      if (source.readyState === EventSource.CLOSED || this.#tries >= FAILURES) fallBack();
      else this.#setLost(true);
    });
    this.#later("silence", SILENT, fallBack);
  }

  async #poll() {
    this.#aborter?.abort();
    const aborter = (this.#aborter = new AbortController());
    try {
      const answer = await fetch(this.#url(), {
        headers: this.#tag ? { "If-None-Match": this.#tag } : {},
        credentials: this.#credentials(),
        cache: "no-store",
        signal: aborter.signal,
      });
      if ([401, 403, 404, 410].includes(answer.status)) {
        this.#end(answer.status);
        return;
      }
      if (answer.status !== 304 && !answer.ok) throw new Error(String(answer.status));
      if (answer.ok) {
        const text = await answer.text();
        this.#tag = answer.headers.get("ETag") ?? "";
        this.#receive(text);
      }
      this.#pollAgain();
    } catch (error) {
      if (aborter.signal.aborted) return;
      this.#setLost(true);
      this.#tries += 1;
      const wait = Math.min(LONGEST, 1_000 * 2 ** Math.min(this.#tries, 5));
      this.#later("poll", wait * (0.5 + Math.random() / 2), () => this.#poll());
    }
  }

  #pollAgain() {
    if (this.job && ENDED.has(this.job.state)) return;
    const comesBack = this.#lost;
    this.#setLost(false);
    this.#tries = 0;
    this.#polls += 1;
    const wait = 1_000 * Math.max(0.5, Number(this.job?.poll_after) || 2);
    const streams = comesBack || this.#polls >= POLLS;
    this.#later("poll", wait, () => (streams ? this.#listen() : this.#poll()));
  }

  #credentials() {
    return this.hasAttribute("credentials") ? "include" : "same-origin";
  }

  #receive(text) {
    let job;
    try {
      job = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof job?.state !== "string") return;
    this.job = job;
    this.#lost = this.#refused = false;
    this.#render();
    this.#tell("job-update", job);
    if (!ENDED.has(job.state)) return;
    this.#stop();
    this.#tell("job-end", job);
  }

  #end(status) {
    this.#stop();
    this.#gone = true;
    this.#render();
    this.#tell("job-error", { status });
  }

  #setLost(lost) {
    if (this.#lost === lost) return;
    this.#lost = lost;
    this.#render();
  }

  #tell(name, detail, cancelable = false) {
    const event = new CustomEvent(name, { detail, cancelable, bubbles: true, composed: true });
    return this.dispatchEvent(event);
  }

  // -- acting

  async #act(action) {
    if (this.#busy || !this.#tell("job-action", { action, job: this.job }, true)) return;
    this.#busy = true;
    this.#refused = false;
    this.#render();
    try {
      const answer = await fetch(this.#url(action), {
        method: "POST",
        credentials: this.#credentials(),
      });
      const told = await answer.text();
      if (!answer.ok) throw new Error(String(answer.status));
      this.#receive(told);
    } catch {
      this.#refused = true;
    }
    this.#busy = false;
    this.#render();
  }

  // -- showing

  #text(name, values = {}) {
    const text = JobProgress.texts[name] ?? TEXTS[name] ?? name;
    return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key] ?? ""));
  }

  #format(options, value) {
    const language = this.closest("[lang]")?.lang || undefined;
    try {
      return new Intl.NumberFormat(language, options).format(value);
    } catch {
      return new Intl.NumberFormat(undefined, options).format(value);
    }
  }

  #span(seconds) {
    const [unit, size] =
      seconds < 90 ? ["second", 1] : seconds < 5_400 ? ["minute", 60] : ["hour", 3_600];
    const value = Math.max(1, Math.round(seconds / size));
    return this.#format({ style: "unit", unit, unitDisplay: "long" }, value);
  }

  #render() {
    const parts = this.#parts;
    const job = this.job;
    const state = job?.state ?? "";
    const name = this.getAttribute("label") || this.#text("label");
    this.#set("label", name);
    this.#set("state", this.#gone ? "" : job ? this.#text(this.#stateName(job)) : this.#text("loading"));
    parts.base.dataset.state = state;
    parts.base.dataset.presentation = job?.presentation ?? "spinner";
    parts.base.toggleAttribute("data-stale", Boolean(job?.stale));
    this.#renderMeter(job, state);
    this.#set("message", ENDED.has(state) ? "" : (job?.progress?.message ?? ""));
    this.#set("numbers", job ? this.#numbers(job) : "");
    this.#renderStages(job);
    this.#renderNotice();
    this.#renderActions(job);
    this.#announce(name, job);
  }

  #set(part, text) {
    const element = this.#parts[part];
    if (element.textContent !== text) element.textContent = text;
    element.hidden = !text;
  }

  #stateName(job) {
    const asked = `asked_${job.asked}`;
    return job.asked && asked in TEXTS ? asked : job.state;
  }

  #renderMeter(job, state) {
    const { meter, spinner, bar, fill } = this.#parts;
    const ended = ENDED.has(state);
    const known = typeof job?.progress?.percent === "number" ? job.progress.percent : null;
    const percent = state === "SUCCEEDED" || state === "PARTIAL" ? 100 : known;
    const turns = !ended && percent === null && (job?.presentation ?? "spinner") === "spinner";
    const idle = job && state !== "RUNNING" && !turns;
    spinner.hidden = !turns || Boolean(job?.stale);
    bar.hidden = turns;
    bar.toggleAttribute("data-unknown", percent === null && !idle && !job?.stale);
    if (percent === null) {
      fill.style.removeProperty("inline-size");
      meter.removeAttribute("aria-valuenow");
    } else {
      const shown = Math.min(100, Math.max(0, percent));
      fill.style.setProperty("inline-size", `${shown}%`);
      meter.setAttribute("aria-valuenow", String(Math.floor(shown)));
    }
    meter.hidden = this.#gone;
    const spoken = job ? [this.#text(this.#stateName(job)), this.#numbers(job)] : [this.#text("loading")];
    meter.setAttribute("aria-valuetext", spoken.filter(Boolean).join(", "));
  }

  #numbers(job) {
    const progress = job.progress ?? {};
    const number = (value) => this.#format({}, Number(value) || 0);
    const parts = [];
    if (typeof progress.percent === "number" && !ENDED.has(job.state)) {
      const percent = this.#format({ maximumFractionDigits: 0 }, Math.floor(progress.percent));
      parts.push(this.#text("percent", { percent }));
    }
    const values = { current: number(progress.current), total: number(progress.total) };
    if (typeof progress.total === "number") parts.push(this.#text("counted", values));
    else if (progress.current > 0) parts.push(this.#text("uncounted", values));
    if (progress.failed > 0) parts.push(this.#text("failures", { failed: number(progress.failed) }));
    if (progress.eta_seconds > 0 && job.state === "RUNNING") {
      parts.push(this.#text("left", { time: this.#span(progress.eta_seconds) }));
    }
    return parts.join(" · ");
  }

  #renderStages(job) {
    const list = this.#parts.stages;
    const stages = Array.isArray(job?.stages) ? job.stages : [];
    const wanted = ["stages", "come-back-later"].includes(job?.presentation);
    list.hidden = !wanted || stages.length < 2;
    while (list.children.length > stages.length) list.lastChild.remove();
    stages.forEach((stage, place) => {
      const item = list.children[place] ?? list.appendChild(document.createElement("li"));
      const state = ["done", "current"].includes(stage.state) ? stage.state : "waiting";
      const spoken = this.#text("stage", { name: stage.name, state: this.#text(state) });
      if (item.dataset.state === state && item.textContent === spoken) return;
      item.dataset.state = state;
      item.setAttribute("part", `stage stage-${state}`);
      if (state === "current") item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      const name = document.createElement("span");
      name.textContent = String(stage.name);
      const rest = document.createElement("span");
      rest.className = "unseen";
      rest.textContent = `: ${this.#text(state)}`;
      item.replaceChildren(name, rest);
    });
  }

  #renderNotice() {
    this.#set("notice", this.#notice());
  }

  #notice() {
    const job = this.job;
    if (this.#gone) return this.#text("gone");
    if (this.#lost) return this.#text("lost");
    if (this.#refused) return this.#text("refused");
    if (job?.stale) {
      const time = this.#span((Date.now() - Date.parse(job.stale_since)) / 1_000);
      this.#later("notice", 5_000, () => this.#renderNotice());
      return this.#text("stale", { time });
    }
    if (job?.state === "RETRYING") return this.#retries(job);
    if (job?.state === "SCHEDULED" && job.due_at) {
      return this.#text("starts", { time: new Date(job.due_at).toLocaleString() });
    }
    const long = job?.presentation === "come-back-later" && !ENDED.has(job.state);
    return long ? this.#text("later") : "";
  }

  #retries(job) {
    const left = (Date.parse(job.due_at) - Date.now()) / 1_000;
    if (!(left > 1)) return this.#text("retriesNow");
    this.#later("notice", 1_000, () => this.#renderNotice());
    return this.#text("retries", { time: this.#span(left) });
  }

  #renderActions(job) {
    const offered = Array.isArray(job?.actions) ? job.actions : [];
    const wanted = (this.getAttribute("actions") ?? "cancel").split(/[\s,]+/);
    let any = false;
    for (const action of ["cancel", "pause", "resume"]) {
      const button = this.#parts[action];
      button.textContent = this.#text(action);
      button.hidden = this.#gone || !offered.includes(action) || !wanted.includes(action);
      button.disabled = this.#busy;
      any ||= !button.hidden;
    }
    this.#parts.actions.hidden = !any;
  }

  #announce(name, job) {
    // Not every tick: what changes the meaning, and every tenth part.
    const tenth = Math.floor((job?.progress?.percent ?? 0) / 10) * 10;
    const state = job ? this.#text(this.#stateName(job)) : "";
    const part = job && !ENDED.has(job.state) && tenth ? this.#text("percent", { percent: tenth }) : "";
    const trouble = this.#gone || this.#lost || this.#refused || job?.stale ? this.#notice() : "";
    const key = [state, part, Boolean(trouble), this.#gone].join("|");
    if (!job && !trouble) return;
    if (key === this.#said) return;
    this.#said = key;
    this.#parts.unseen.textContent = [name, state, part, trouble].filter(Boolean).join(", ");
  }
}

if (!customElements.get("job-progress")) customElements.define("job-progress", JobProgress);
