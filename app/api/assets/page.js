// The status page: reads /health, /ps and /models, and shows them. Every text that comes from there goes into the page
// as text: names, errors and log lines may hold anything.

const EVERY_MS = 2000, AWAY_MS = 10000, LOG_LINES = 60;
const MOST_AT_ONCE = 4; // of the six connections that a browser has to one server; a load may hold its own for minutes
const MOODS = { ready: "good", starting: "busy", draining: "busy", stopping: "busy", cooling: "bad", failed: "bad", stuck: "bad", ok: "good", degraded: "bad" };
const ACTIVE = new Set(["waiting", "resolving", "downloading", "verifying"]);
const $ = (id) => document.getElementById(id);

let key = sessionStorage.getItem("airlab-key");
let isAdmin = null;                 // null: not known yet
let entries = new Map(), seen = ""; // GET /models by key, and what they were read for
const items = new WeakMap([$("devices"), $("jobs"), $("rows")].map((list) => [list, new Map()]));
const openLogs = new Set();         // keys of models
let old = null;                     // those whose download had failed before this page first looked
let underway = 0;                   // buttons that were pressed and are not done
let timer = null, isAsking = false, isWanted = false;

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}
class Away extends Error {}

async function ask(path, method = "GET") {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  // What only looks has a limit: an AirLab that stands still must not look well. What does something takes its time.
  const signal = ["GET", "HEAD"].includes(method) ? AbortSignal.timeout(AWAY_MS) : null;
  let answer, body = null;
  try {
    answer = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit" });
    if (method !== "HEAD") body = await answer.json();
  } catch {
    // No connection, one that broke off, or something else than AirLab, which always answers in JSON.
    throw new Away("AirLab does not answer; this page tries again");
  }
  // /health answers 503 with its usual body while AirLab shuts down.
  if (!answer.ok && path !== "health") throw new Refused(answer.status, body?.error?.message ?? `status ${answer.status}`);
  if (!answer.ok && body?.error) throw new Refused(answer.status, body.error.message);
  return body;
}

// Asking again and again.

async function refresh() {
  if (isAsking) { isWanted = true; return; }
  isAsking = true;
  clearTimeout(timer);
  const used = key;
  let next = EVERY_MS;
  try {
    await look();
  } catch (error) {
    next = key === used ? cannotLook(error) : 0; // another key has been entered meanwhile
  } finally {
    isAsking = false;
    if (isWanted) next = 0;
    isWanted = false;
    if (next !== null && !document.hidden) timer = setTimeout(refresh, next);
  }
}

async function look() {
  const health = await ask("health");
  showHealth(health);
  if (health.generation === undefined) throw new Refused(401, "");
  if (isAdmin === null) isAdmin = await mayChange();
  const ps = await ask("ps");
  const now = `${health.generation} ${ps.models.map((row) => `${row.key}:${row.state}`).join()}`;
  if (now !== seen) {
    entries = new Map((await ask("models")).models.map((entry) => [entry.key, entry]));
    seen = now;
  }
  show(ps);
  await Promise.all([...openLogs].map(showLog));
}

function cannotLook(error) {
  if (error instanceof Refused && error.status === 401) {
    const wrong = key !== null;
    setKey(null);
    askForKey(wrong ? error.message : "");
    return null;
  }
  if (!(error instanceof Refused || error instanceof Away)) throw error; // a mistake of this page's: for the console
  setBadge($("status"), error instanceof Refused ? `error ${error.status}` : "away", "bad");
  setText($("message"), error.message);
  seen = ""; // what comes back may be another AirLab,
  isAdmin = null; // and let this key do something else
  return AWAY_MS;
}

async function mayChange() {
  try {
    await ask("manifest", "HEAD");
    return true;
  } catch (error) {
    if (error.status === 403) return false;
    throw error;
  }
}

// Showing.

function show(ps) {
  const failed = ps.models.filter((row) => row.download?.state === "failed").map((row) => row.key);
  old = new Set(failed.filter((name) => old === null || old.has(name)));
  const active = ps.models.filter((row) => ACTIVE.has(row.download?.state) || (failed.includes(row.key) && !old.has(row.key)));
  keep($("devices"), $("bar"), ps.memory, (device) => device.device, showDevice);
  keep($("jobs"), $("bar"), active, (row) => row.key, showDownload);
  keep($("rows"), $("row"), ps.models, (row) => row.key, (item, row) => showModel(item, row, ps.current));
  $("memory").hidden = ps.memory.length === 0;
  $("downloads").hidden = active.length === 0;
  $("models").hidden = false;
  filter();
}

function showHealth(health) {
  setBadge($("status"), health.status, MOODS[health.status]);
  setText($("message"), health.reload_error ? health.message.split("\n")[0] : health.message);
  setText($("reload-error"), health.reload_error ?? "");
  $("reload").hidden = !health.reload_error;
}

function showDevice(item, device) {
  setText(part(item, ".name"), device.device);
  const bar = part(item, "progress");
  const most = Math.max(device.limit_bytes, device.promised_bytes, 1);
  Object.assign(bar, { max: most, value: device.promised_bytes, className: device.promised_bytes > most * 0.9 ? "full" : "" });
  const words = `${bytes(device.promised_bytes)} promised of ${bytes(device.limit_bytes)} for models`;
  bar.setAttribute("aria-label", `${device.device}: ${words}`);
  setText(part(item, ".figures"), words);
}

function showDownload(item, row) {
  const job = row.download;
  setText(part(item, ".name"), row.key);
  const progress = part(item, "progress");
  progress.setAttribute("aria-label", `download of ${row.key}`);
  if (job.total_bytes) Object.assign(progress, { max: job.total_bytes, value: job.done_bytes });
  else progress.removeAttribute("value");
  setText(part(item, ".figures"), job.message ?? downloaded(job));
  const cancel = part(item, "button");
  cancel.hidden = !isAdmin || !ACTIVE.has(job.state);
  cancel.setAttribute("aria-label", `Cancel the download of ${row.key}`);
  cancel.onclick = () => act(cancel, "DELETE", `models/${encodeURIComponent(row.key)}/pull`, `the download of ${row.key} is cancelled; what came is kept`);
}

function downloaded(job) {
  if (!job.total_bytes) return job.state;
  const share = `${Math.floor((100 * job.done_bytes) / job.total_bytes)} %, ${bytes(job.done_bytes)} of ${bytes(job.total_bytes)}`;
  if (job.state !== "downloading") return `${job.state}: ${share}`;
  return `${share}, ${bytes(job.bytes_per_s)}/s${job.eta_s === null ? "" : `, ${duration(job.eta_s)} left`}`;
}

function showModel(item, row, current) {
  const focused = document.activeElement; // asked before a button is hidden, which ends its focus
  const entry = entries.get(row.key) ?? {};
  setText(part(item, ".name"), entry.name && entry.name !== row.key ? `${entry.name} (${row.key})` : row.key);
  part(item, ".current").hidden = row.key !== current;
  setText(part(item, ".facts"), facts(entry, row).join(" · "));
  setText(part(item, ".description"), entry.description ?? "");
  setBadge(part(item, ".badge"), row.state, MOODS[row.state]);
  const runs = row.pid !== null || row.container !== null || row.state === "ready";
  const busy = runs ? [`${row.busy} of ${row.slots} slots busy`] : [];
  setText(part(item, ".use"), [...busy, ...(row.waiting ? [`${row.waiting} waiting`] : [])].join(", "));
  drawSlots(part(item, ".slots"), runs ? row.slots : 0, row.busy, row.waiting);
  const last = old.has(row.key) && !entry.exists ? `its last download failed: ${row.download.message}` : "";
  const trouble = row.message ?? entry.problem ?? last;
  setText(part(item, ".problem"), trouble);
  part(item, ".problem").hidden = !trouble;
  const isLoading = row.download !== null && ACTIVE.has(row.download.state);
  const source = entry.hf_repo ?? entry.download_url;
  button(item, row.key, "load", isAdmin && entry.exists && ["stopped", "failed", "cooling"].includes(row.state));
  button(item, row.key, "unload", isAdmin && entry.source !== "remote" && ["ready", "starting"].includes(row.state));
  button(item, row.key, "pull", isAdmin && !entry.exists && source && !isLoading);
  button(item, row.key, "log", isAdmin && entry.exists && entry.source !== "remote");
  if (focused?.hidden && item.contains(focused)) part(item, ".buttons button:not([hidden])")?.focus();
  item.dataset.words = `${row.key} ${entry.name ?? ""} ${row.state} ${entry.description ?? ""}`.toLowerCase();
}

// A square for each slot, filled where it serves; those that wait behind them.
function drawSlots(place, slots, busy, waiting) {
  const wanted = slots + Math.min(waiting, 16);
  while (place.children.length > wanted) place.lastChild.remove();
  while (place.children.length < wanted) place.append(document.createElement("i"));
  [...place.children].forEach((square, number) => {
    square.className = number >= slots ? "waits" : number < busy ? "on" : "";
  });
}

function facts(entry, row) {
  const found = [entry.quantisation, entry.parameters ? `${count(entry.parameters)} parameters` : null];
  if (entry.context_length) found.push(`context ${count(entry.context_length, 1024)}`);
  if (row.memory_bytes) found.push(`${bytes(row.memory_bytes)} in memory`);
  if (entry.source === "remote") found.push("on another server");
  if (entry.exists === false) found.push("not on disk");
  return found.filter(Boolean);
}

async function showLog(name) {
  const item = items.get($("rows")).get(name);
  if (item === undefined) { openLogs.delete(name); return; }
  const pre = part(item, ".log");
  try {
    const { lines } = await ask(`models/${encodeURIComponent(name)}/logs?tail=${LOG_LINES}`);
    setText(pre, lines.join("\n") || "Its engine has written nothing.");
  } catch (error) {
    setText(pre, error.message);
  }
}

// Doing.

const DOES = { load: ["load", "is ready"], unload: ["unload", "is unloaded"], pull: ["pull", "is being downloaded"] };

function button(item, name, does, isShown) {
  const found = part(item, `[data-does=${does}]`);
  found.hidden = !isShown;
  if (found.onclick) return;
  found.setAttribute("aria-label", `${found.textContent} ${does === "log" ? "of " : ""}${name}`);
  found.onclick = does === "log" ? () => toggleLog(found, item, name) : () => {
    const [path, words] = DOES[does];
    if (does === "pull") old.delete(name); // how this one ends is news
    act(found, "POST", `models/${encodeURIComponent(name)}/${path}`, `${name} ${words}`);
  };
}

async function act(pressed, method, path, words) {
  // Not disabled, which would take the keyboard's focus away.
  if (pressed.ariaDisabled === "true") return;
  if (underway >= MOST_AT_ONCE) { say(`${underway} others are not done yet; wait for one of them`, "bad"); return; }
  underway += 1;
  pressed.ariaDisabled = "true";
  const doing = ask(path, method);
  setTimeout(refresh, 200); // to show what it began
  try {
    await doing;
    say(words);
  } catch (error) {
    if (error.status === 403) isAdmin = false;
    say(error.message, "bad");
  } finally {
    underway -= 1;
    pressed.ariaDisabled = null;
    refresh();
  }
}

function toggleLog(pressed, item, name) {
  const isOpen = !openLogs.delete(name);
  if (isOpen) openLogs.add(name);
  pressed.setAttribute("aria-expanded", String(isOpen));
  part(item, ".log").hidden = !isOpen;
  if (isOpen) showLog(name);
}

function say(words, mood = "") {
  setText($("words"), words);
  $("said").className = mood;
  $("said").hidden = false;
}

// The key.

function setKey(given) {
  key = given;
  isAdmin = null;
  if (given === null) sessionStorage.removeItem("airlab-key");
  else sessionStorage.setItem("airlab-key", given);
  showKeyButton();
}

function showKeyButton() {
  setText($("key-button"), key === null ? "Enter a key" : "Forget the key");
  $("key-button").hidden = false;
}

function askForKey(why) {
  setBadge($("status"), "locked", "busy");
  if (why) setText($("ask-why"), why);
  forget();
  if (!$("ask").open) $("ask").showModal();
}

// Whoever enters the next key may see less.
function forget() {
  for (const id of ["memory", "downloads", "models", "said"]) $(id).hidden = true;
  for (const list of [$("devices"), $("jobs"), $("rows")]) { list.replaceChildren(); items.get(list).clear(); }
  setText($("words"), "");
  openLogs.clear();
  seen = "";
}

$("ask-form").onsubmit = (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  $("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) { setText($("ask-why"), "A key has letters, digits and signs, and no blanks."); return; }
  setKey(given);
  $("ask").close();
  refresh();
};
$("ask-cancel").onclick = () => $("ask").close();
$("key-button").onclick = () => { if (key === null) askForKey(""); else { setKey(null); seen = ""; refresh(); } };
$("dismiss").onclick = () => { $("said").hidden = true; };
$("filter").oninput = filter;
document.onvisibilitychange = () => { if (!document.hidden) refresh(); };

// The page's parts.

function keep(list, template, wanted, nameOf, showItem) {
  const known = items.get(list);
  const names = new Set(wanted.map(nameOf));
  for (const item of [...list.children]) {
    if (!names.has(item.dataset.name)) { known.delete(item.dataset.name); item.remove(); }
  }
  wanted.forEach((each, place) => {
    const name = nameOf(each);
    let item = known.get(name);
    if (item === undefined) {
      item = template.content.firstElementChild.cloneNode(true);
      item.dataset.name = name;
      known.set(name, item);
    }
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    showItem(item, each);
  });
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of $("rows").children) {
    item.hidden = !words.every((word) => item.dataset.words.includes(word));
    shown += item.hidden ? 0 : 1;
  }
  const all = $("rows").children.length;
  setText($("count"), words.length ? `${shown} of ${all}` : `${all}`);
  $("none").hidden = shown > 0;
}

const part = (item, selector) => item.querySelector(selector);
function setText(node, words) { if (node.textContent !== words) node.textContent = words; }
function setBadge(node, words, mood = "") { setText(node, words); node.dataset.mood = mood; }

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (place < units.length - 1 && number >= 1024) { number /= 1024; place += 1; }
  return place === 0 ? `${number} B` : `${number.toFixed(1)} ${units[place]}`;
}

function count(number, thousand = 1000) {
  const [power, unit] = number >= thousand ** 3 ? [3, "B"] : number >= thousand ** 2 ? [2, "M"] : number >= thousand ? [1, "k"] : [0, ""];
  return `${Number((number / thousand ** power).toPrecision(3))}${unit}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

if (key !== null) showKeyButton();
refresh();
