"use strict";
// The pages of jobs: they ask for JSON and show it. Whatever a job says is put in as
// text, never as HTML.
(() => {
  const { page, root, id, commands, readOnly } = document.getElementById("jk").dataset;
  const EVERY = 2000;
  const SLOWEST = 30000;
  const DRAWN = 15000;
  const COLUMNS = [
    ["Job", ""], ["State", ""], ["Progress", "jk-how-far"], ["Left", "jk-mid jk-num"],
    ["Attempt", "jk-wide jk-num"], ["Recoveries", "jk-wide jk-num"], ["Queue", "jk-mid"],
    ["Worker", "jk-wide"], ["Age", "jk-mid jk-num"],
  ];
  const WORDS = {
    cancel: "Cancel", pause: "Pause", resume: "Resume", discard: "Discard", replay: "Replay",
  };
  const KINDS = { cancel: "danger", discard: "danger", pause: "secondary", resume: "primary", replay: "primary" };
  const picked = new Set();
  let failed = 0;
  let timer = 0;
  let known = null;
  let clock = 0;
  let asked = 0;
  let failuresAfter = [""];

  const at = (name) => document.getElementById(name);

  function make(tag, options = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
      else if (name === "class") element.className = value;
      else if (name === "checked" || name === "disabled") element[name] = Boolean(value);
      else element.setAttribute(name, value);
    }
    element.append(...inside.filter((part) => part !== null && part !== undefined && part !== ""));
    return element;
  }

  const way = (job) => `${root}/${encodeURIComponent(job)}`;
  const number = (value) => Number(value).toLocaleString("en");

  function span(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
  }

  const age = (moment) => (moment === null ? "" : span(Date.now() / 1000 - moment));
  const when = (moment) => (moment === null ? "" : new Date(moment * 1000).toLocaleString());

  function badge(job) {
    const inside = [make("span", { class: `jk-badge jk-${job.state}` }, job.state)];
    if (job.stale) inside.push(" ", make("span", { class: "jk-badge jk-STALE", title: "Its worker is silent: its lease has ended" }, "STALE"));
    if (job.asked) inside.push(" ", make("span", { class: "jk-muted" }, `${job.asked} asked for`));
    return inside;
  }

  function bar(percent, kind = "") {
    const inner = make("div", { class: `progress-bar ${kind}` });
    inner.style.width = `${Math.min(100, Math.max(0, percent))}%`;
    return make("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuenow": Math.round(percent), "aria-valuemin": 0, "aria-valuemax": 100 }, inner);
  }

  function items(part) {
    const of = part.total === null ? "" : ` of ${number(part.total)}`;
    return part.current || part.total !== null ? `${number(part.current)}${of}` : "";
  }

  function howFar(job) {
    const progress = job.progress;
    const words = [];
    if (progress.stage) {
      const place = progress.stage_count ? ` (${progress.stage_index + 1}/${progress.stage_count})` : "";
      words.push(progress.stage + place);
    }
    if (items(progress)) words.push(items(progress));
    if (progress.percent !== null) words.push(`${Math.floor(progress.percent)}\u00a0%`);
    const kind = job.stale ? "bg-warning" : job.state === "DEAD" ? "bg-danger" : job.state === "SUCCEEDED" ? "bg-success" : "";
    const inside = [make("span", { class: "jk-muted" }, words.join(" · "))];
    if (progress.percent !== null) inside.push(bar(progress.percent, kind));
    if (progress.failed) inside.push(make("span", { class: "jk-muted" }, `${number(progress.failed)} failed`));
    if (progress.message) inside.push(make("div", { class: "jk-muted" }, progress.message));
    return inside;
  }

  const left = (job) => (job.state === "RUNNING" && !job.stale && job.progress.eta !== null ? `~${span(job.progress.eta)}` : "");

  // -- asking and commanding

  async function ask(path, options = {}) {
    const answer = await fetch(root + path, { redirect: "error", ...options, headers: { Accept: "application/json", ...options.headers } });
    let content = {};
    try { content = await answer.json(); } catch { /* a proxy's page, perhaps */ }
    if (answer.ok) return content;
    const error = new Error(content.error || `Flower answered ${answer.status}.`);
    error.status = answer.status;
    throw error;
  }

  function command(path, body) {
    const token = document.cookie.split("; ").find((part) => part.startsWith("_xsrf="));
    const headers = { "Content-Type": "application/json" };
    if (token) headers["X-XSRFToken"] = decodeURIComponent(token.slice(6));
    return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  function notice(text) {
    at("jk-notice").textContent = text;
    at("jk-notice").hidden = !text;
  }

  function said(text) {
    at("jk-status").textContent = text;
  }

  async function act(name, ids, more = {}) {
    if (name === "cancel" || name === "discard") {
      const many = ids.length === 1 ? "this job" : `${ids.length} jobs`;
      if (!window.confirm(`${WORDS[name]} ${many}?`)) return;
    }
    try {
      if (page === "job") {
        const done = await command(`/${encodeURIComponent(id)}/${name}`, more);
        if (done.id !== id) { window.location.assign(way(done.id)); return; }
        clock = Date.now() + 5000;
        said(`${WORDS[name]}: done.`);
      } else {
        const { done, refused } = await command(`/api/${name}`, { ids, ...more });
        const why = Object.entries(refused);
        for (const job of done) picked.delete(job);
        clock = Date.now() + 5000;
        said(`${WORDS[name]}: ${done.length} of ${ids.length}.`);
        if (why.length) window.alert(why.slice(0, 5).map(([, text]) => text).join("\n"));
      }
    } catch (error) {
      window.alert(error.message);
    }
    refresh();
  }

  function button(name, label, run, disabled = false) {
    return make("button", { type: "button", class: `btn btn-sm btn-outline-${KINDS[name]}`, disabled, "data-command": name, on: { click: run } }, label);
  }

  function why() {
    if (commands) return null;
    return make("span", { class: "jk-muted" }, readOnly ? "This Flower is read-only." : "To act on jobs, start Flower with a login (--basic-auth), or set FLOWER_UNAUTHENTICATED_API.");
  }

  function replays(state, run) {
    if (state === "PARTIAL") return [button("replay", "Replay failed items", () => run("failed_items"))];
    return [button("replay", "Replay from checkpoint", () => run("resume")), button("replay", "Replay from the start", () => run("restart"))];
  }

  // -- lists

  const filters = () => new URLSearchParams(window.location.search);

  function toolbar(names) {
    const place = at("jk-toolbar");
    if (!commands) { place.replaceChildren(why()); return; }
    const none = picked.size === 0;
    const buttons = names.flatMap((name) => {
      const run = (mode) => act(name, [...picked], mode ? { mode } : {});
      if (name !== "replay") return [button(name, WORDS[name], () => run(), none)];
      return replays("DEAD", run).map((one) => { one.disabled = none; return one; });
    });
    place.replaceChildren(...buttons, make("span", { class: "jk-muted" }, none ? "Select jobs to act on them." : `${picked.size} selected`));
  }

  function pick(job, names) {
    if (!commands) return null;
    const change = (event) => {
      if (event.target.checked) picked.add(job.id); else picked.delete(job.id);
      toolbar(names);
    };
    return make("input", { type: "checkbox", class: "form-check-input", "aria-label": `Select ${job.id}`, checked: picked.has(job.id), on: { change } });
  }

  function head(names) {
    const all = make("input", { type: "checkbox", class: "form-check-input", "aria-label": "Select all", on: { change: (event) => {
      for (const job of known.jobs) if (event.target.checked) picked.add(job.id); else picked.delete(job.id);
      show(known);
      toolbar(names);
    } } });
    at("jk-head").replaceChildren(make("th", { class: "jk-pick" }, commands ? all : ""), ...COLUMNS.map(([name, kind]) => make("th", { class: kind, scope: "col" }, name)));
  }

  function line(job) {
    const name = make("a", { href: way(job.id), class: "jk-id" }, job.id);
    const whose = [job.task, job.owner].filter(Boolean).join(" · ");
    return make("tr", { class: job.stale ? "jk-stale" : "", "data-id": job.id },
      make("td", { class: "jk-pick" }, pick(job, LISTS.jobs.names)),
      make("td", {}, name, make("div", { class: "jk-muted" }, whose)),
      make("td", { class: "jk-state" }, ...badge(job), make("div", { class: "jk-muted" }, job.reason)),
      make("td", { class: "jk-how-far" }, ...howFar(job), make("div", { class: "jk-small jk-muted" }, [job.queue, left(job) && `${left(job)} left`, age(job.created_at)].filter(Boolean).join(" · "))),
      make("td", { class: "jk-mid jk-num" }, left(job)),
      make("td", { class: "jk-wide jk-num" }, String(job.attempt)),
      make("td", { class: "jk-wide jk-num" }, String(job.recoveries)),
      make("td", { class: "jk-mid" }, job.queue),
      make("td", { class: "jk-wide" }, job.worker),
      make("td", { class: "jk-mid jk-num", title: when(job.created_at) }, age(job.created_at)));
  }

  function trace(error, open) {
    if (!error) return [];
    const inside = [make("div", {}, make("b", {}, error.type), error.message ? `: ${error.message}` : "")];
    if (error.verdict) inside.push(make("div", { class: "jk-muted" }, `Taken for: ${error.verdict}`));
    if (error.traceback) inside.push(make("details", { open: open ? "" : null }, make("summary", { class: "jk-muted" }, "Traceback"), make("pre", { class: "jk-pre" }, error.traceback)));
    return inside;
  }

  function letter(job) {
    const opened = at("jk-rows").querySelector(`[data-id="${CSS.escape(job.id)}"] details[open]`) !== null;
    return make("article", { class: "jk-letter", "data-id": job.id },
      pick(job, LISTS["dead-letters"].names),
      make("div", {},
        make("div", { class: "jk-letter-head" },
          make("b", {}, job.task), make("a", { href: way(job.id), class: "jk-id" }, job.id),
          make("span", { class: "jk-muted" }, job.dead_letter_queue || job.queue),
          make("span", { class: "jk-muted", title: when(job.finished_at) }, `${age(job.finished_at)} ago`)),
        make("div", {}, make("span", { class: "jk-badge jk-DEAD" }, job.reason || "DEAD"), " ", make("span", { class: "jk-muted" }, [`attempt ${job.attempt}`, items(job.progress)].filter(Boolean).join(" · "))),
        ...trace(job.error, opened)));
  }

  function counts(content) {
    const place = at("jk-counts");
    if (!place) return;
    const state = filters().get("state") || "";
    const all = Object.values(content.counts).reduce((sum, count) => sum + count, 0);
    const link = (name, label, count) => {
      const query = filters();
      query.delete("after");
      if (name) query.set("state", name); else query.delete("state");
      return make("a", { class: `jk-count${name === state ? " active" : ""}`, href: `?${query}` }, label, make("b", {}, number(count)));
    };
    place.replaceChildren(link("", "All", all), ...Object.entries(content.counts).filter(([name, count]) => count || name === state).map(([name, count]) => link(name, name, count)));
  }

  function pager(content) {
    const query = filters();
    const parts = [];
    if (query.has("after")) {
      const first = filters();
      first.delete("after");
      parts.push(make("a", { href: `?${first}` }, "Newest"));
    }
    if (content.next) {
      query.set("after", content.next);
      parts.push(make("a", { href: `?${query}`, rel: "next" }, content.jobs.length ? "Older" : "Look further"));
    }
    at("jk-pager").replaceChildren(...parts);
  }

  function show(content) {
    const list = LISTS[page];
    const rows = content.jobs.map(list.line);
    const empty = content.next ? "None among these; there are more." : list.empty;
    if (!rows.length) rows.push(page === "jobs" ? make("tr", {}, make("td", { class: "jk-empty", colspan: COLUMNS.length + 1 }, empty)) : make("div", { class: "jk-card jk-empty" }, empty));
    at("jk-rows").replaceChildren(...rows);
    counts(content);
    pager(content);
  }

  const LISTS = {
    jobs: { names: ["cancel", "pause", "resume"], line, empty: "No jobs.", path: "/api/jobs" },
    "dead-letters": { names: ["replay", "discard"], line: letter, empty: "No dead letters.", path: "/api/dead-letters" },
  };

  // -- charts

  function figure(chart) {
    // Parsed as XML, a script in it would not run; and names in it are text.
    const drawing = new DOMParser().parseFromString(chart.svg, "image/svg+xml").documentElement;
    const legend = chart.legend.map((part) => make("span", { class: `jk-badge jk-${part.state}` }, `${part.state} ${number(part.count)}`));
    return make("figure", { class: "jk-card jk-pad jk-figure" }, make("figcaption", {}, make("h2", {}, chart.title), ...legend), drawing);
  }

  async function draw() {
    const place = at("jk-charts");
    if (!document.hidden) {
      try {
        const { charts } = await ask("/api/charts");
        place.querySelector(".jk-figures").replaceChildren(...charts.map(figure));
        place.hidden = charts.length === 0;
      } catch { /* the list says what is wrong */ }
    }
    window.setTimeout(draw, DRAWN);
  }

  // -- one job

  function facts(pairs) {
    return make("dl", { class: "jk-facts" }, ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function card(title, ...inside) {
    return make("section", { class: "jk-card jk-pad", "aria-label": title }, make("h2", {}, title), ...inside);
  }

  function stage(part) {
    const words = [items(part)];
    if (part.failed || part.skipped) words.push(`${number(part.ok)} ok, ${number(part.failed)} failed, ${number(part.skipped)} skipped`);
    if (part.seconds) words.push(span(part.seconds));
    const percent = part.total ? (100 * part.current) / part.total : null;
    return make("li", { class: `jk-${part.at}` }, make("b", {}, part.name), " ", make("span", { class: "jk-muted" }, words.filter(Boolean).join(" · ")),
      percent === null ? null : bar(percent, part.at === "done" ? "bg-success" : ""),
      part.cursor === null ? null : make("div", { class: "jk-muted" }, "Checkpoint: ", make("code", {}, part.cursor)));
  }

  function table(names, rows) {
    return make("table", { class: "table mb-0 jk-table jk-plain" }, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", {}, name)))), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))));
  }

  function actions(job) {
    if (!commands) { at("jk-toolbar").replaceChildren(why()); return; }
    at("jk-toolbar").replaceChildren(...job.actions.flatMap((name) => {
      const run = (mode) => act(name, [job.id], mode ? { mode } : {});
      return name === "replay" ? replays(job.state, run) : [button(name, WORDS[name], () => run())];
    }));
  }

  function lineage(job) {
    if (job.replay_of) return make("a", { href: way(job.replay_of) }, job.replay_of);
    return null;
  }

  function called(job) {
    const hidden = "Hidden. jobkit_show_arguments = True in the app's settings shows them.";
    return make("pre", { class: "jk-pre" }, job.arguments === null ? hidden : `${job.arguments.args}\n${job.arguments.kwargs}`);
  }

  function showJob(job) {
    const progress = job.progress;
    const opened = at("jk-job").querySelector("details[open]") !== null || known === null;
    const parts = [card("Now", make("p", {}, ...badge(job), " ", make("span", { class: "jk-muted" }, job.reason)), ...howFar(job), facts([
      ["Task", job.task], ["Queue", job.queue], ["Owner", job.owner], ["Worker", job.worker], ["Time left", left(job)],
      ["Items", `${number(progress.ok)} ok, ${number(progress.failed)} failed, ${number(progress.skipped)} skipped`],
      ["Rate", progress.rate === null ? null : `${number(Math.round(progress.rate * 10) / 10)} items/s`],
      ["Attempt", String(job.attempt)], ["Starts", String(job.starts)], ["Recoveries", String(job.recoveries)],
      ["Interruptions", String(job.interruptions)], ["Crashes without progress", job.crashes], ["Replays", String(job.replays)], ["Replay of", lineage(job)],
      ["Created", when(job.created_at)], ["Started", when(job.started_at)], ["Updated", when(job.updated_at)], ["Due", when(job.due_at)],
      ["Lease until", when(job.lease_until)], ["Finished", when(job.finished_at)], ["Dead letter queue", job.dead_letter_queue],
      ["Asked for", job.request ? [job.request.kind, job.request.actor && `by ${job.request.actor}`, job.request.reason].filter(Boolean).join(" ") : null],
    ]))];
    if (job.stages.length) parts.push(card("Stages", make("ol", { class: "jk-stages" }, ...job.stages.map(stage))));
    if (job.error) parts.push(card("Last error", ...trace(job.error, opened)));
    parts.push(card("Arguments", called(job)));
    parts.push(card("History", table(["When", "What", "State", "More"], job.history.slice().reverse().map((event) => [when(event.at), event.name, event.state, event.detail]))));
    at("jk-job").replaceChildren(...parts);
    actions(job);
    if (job.open_failures || job.progress.failed) showFailures();
  }

  async function showFailures() {
    const place = at("jk-failures");
    const after = failuresAfter[failuresAfter.length - 1];
    let content;
    try { content = await ask(`/api/jobs/${encodeURIComponent(id)}/failures${after ? `?after=${encodeURIComponent(after)}` : ""}`); } catch { return; }
    const rows = content.items.map((item) => [item.stage, item.key, `${item.error}: ${item.message}`, String(item.attempts), item.open ? "open" : "handled", when(item.last_at)]);
    const move = (change) => () => { change(); showFailures(); };
    const turn = (label, change) => make("button", { type: "button", class: "btn btn-sm btn-outline-secondary", on: { click: move(change) } }, label);
    place.replaceChildren(make("h2", {}, "Failed items"), table(["Stage", "Item", "Error", "Attempts", "", "Last"], rows), make("div", { class: "jk-pager" },
      failuresAfter.length > 1 ? turn("Earlier", () => failuresAfter.pop()) : null,
      content.next ? turn("More", () => failuresAfter.push(content.next)) : null));
    place.hidden = rows.length === 0 && failuresAfter.length === 1;
  }

  // -- the poll

  async function refresh() {
    window.clearTimeout(timer);
    asked += 1;
    const mine = asked;
    try {
      const content = page === "job" ? await ask(`/api/jobs/${encodeURIComponent(id)}`) : await ask(`${LISTS[page].path}${window.location.search}`);
      if (mine !== asked) return;
      if (page === "job") showJob(content); else { show(content); toolbar(LISTS[page].names); }
      known = content;
      failed = content.store ? failed + 1 : 0;
      notice(content.store ? `This is how it was ${span(content.age)} ago. ${content.store}` : "");
      if (Date.now() > clock) said(`Updated ${new Date().toLocaleTimeString()}`);
    } catch (error) {
      if (mine !== asked) return;
      failed += 1;
      notice(error.status ? error.message : "Flower does not answer, or wants you to log in again: reload the page.");
    }
    document.querySelector(".jk-page").classList.toggle("jk-old", failed > 0);
    if (!document.hidden) timer = window.setTimeout(refresh, Math.min(SLOWEST, EVERY * 2 ** failed));
  }

  const form = at("jk-filters");
  if (form) {
    for (const [name, value] of filters()) if (form.elements[name]) form.elements[name].value = value;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value.trim()) query.set(name, value.trim());
      window.location.search = query.toString();
    });
  }
  if (page === "jobs") {
    head(LISTS.jobs.names);
    at("jk-charts").open = !window.matchMedia("(max-width: 767.98px)").matches;
    draw();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
})();
